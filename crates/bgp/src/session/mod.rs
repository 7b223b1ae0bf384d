//! One neighbour: its connections, of which there may be two until one is chosen (RFC 4271, 6.8), and
//! the state machine of each (8.2.2).
