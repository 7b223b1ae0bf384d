//! What speaks to the API server, against one of our own that can be made to misbehave; that it
//! answers as the real one does is told by what the real one said.
#![allow(clippy::unwrap_used)]

mod agent;
mod fake;
mod pods;
mod recorded;
mod services;
#[path = "../stories/story.rs"]
#[allow(dead_code, unused_imports)]
mod story;
