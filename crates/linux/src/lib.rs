//! Touches the kernel.
