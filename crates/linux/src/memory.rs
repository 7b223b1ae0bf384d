//! What the allocator keeps of this process's memory. An agent shares its node with the pods.

/// One arena for all threads: an agent's threads allocate little at a time, and what one frees the
/// next can use (mallopt(3)). To be called before there are threads.
#[cfg(target_env = "gnu")]
pub fn share_arena() {
    // SAFETY: it only sets a parameter of the allocator.
    #[allow(unsafe_code)]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives what was freed back to the kernel (malloc_trim(3)): a burst of records needs more for a
/// moment than what it leaves.
#[cfg(target_env = "gnu")]
pub fn give_back() {
    // SAFETY: it only returns pages that hold nothing.
    #[allow(unsafe_code)]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other allocators keep to themselves what they do.
#[cfg(not(target_env = "gnu"))]
pub fn share_arena() {}
#[cfg(not(target_env = "gnu"))]
pub fn give_back() {}
