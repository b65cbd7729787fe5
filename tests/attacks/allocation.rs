//! Measures the peak memory of a piece of work with an allocator that counts bytes separately for
//! each thread.
#![allow(unsafe_code, reason = "an allocator cannot be written without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

fn count(bytes: isize) {
    // A thread that ends still allocates after its thread-local counters are gone. Ignore the
    // error.
    let _ = NOW.try_with(|now| {
        now.set(now.get() + bytes);
        PEAK.with(|peak| peak.set(peak.get().max(now.get())));
    });
}

// SAFETY: every call is passed unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises hold for the system's allocator too.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above, and the system's allocator allocated the memory.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that a piece of work had allocated on this thread.
#[derive(Clone, Copy, Debug)]
pub struct Allocated {
    /// The largest number of bytes at one time.
    pub peak: u64,
    /// The bytes that were still allocated at the end, such as the entries of a store in memory.
    pub left: u64,
}

/// Runs `work` and returns its result with the memory that `work` had allocated on this thread.
pub fn of<T>(work: impl FnOnce() -> T) -> (T, Allocated) {
    let before = NOW.get();
    PEAK.set(before);
    let result = work();
    let since = |bytes: isize| (bytes - before).max(0) as u64;
    (result, Allocated { peak: since(PEAK.get()), left: since(NOW.get()) })
}
