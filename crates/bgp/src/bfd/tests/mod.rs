//! The form of packets, every pair of states, and two ends on a link that loses what it likes.

mod form;
mod machine;
mod restored;
mod two;
mod world;
