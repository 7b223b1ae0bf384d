//! Tests of the chooser.
