//! Following a collection through everything that befalls an API server.
