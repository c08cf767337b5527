//! Named places where a debug build can be made to die, as a power cut would end it.
//!
//! Compiled to nothing in a release build. In a debug build, which is what the tests run, `SWITCHBOARD_FAILPOINT=name:n`
//! ends the process when it comes to that place for the n-th time. It ends by `abort`: SIGABRT runs no destructor and
//! flushes nothing, so what is left on disk is what SIGKILL would leave. With `name:n:panic` only the task that comes
//! there ends, by a panic, as by a defect of ours.

/// Dies here, if this is the place and the time.
#[inline]
pub fn hit(name: &str) {
    #[cfg(debug_assertions)]
    if armed::reached(name) {
        armed::die(name);
    }
    let _ = name;
}

/// Dies once the running transaction is durable, before anybody is answered, if this is the place and the time.
#[inline]
pub fn after_commit(name: &str) {
    #[cfg(debug_assertions)]
    if armed::reached(name) {
        armed::DUE.store(true, std::sync::atomic::Ordering::SeqCst);
    }
    let _ = name;
}

/// The writer has made a transaction durable.
#[inline]
pub fn committed() {
    #[cfg(debug_assertions)]
    if armed::DUE.load(std::sync::atomic::Ordering::SeqCst) {
        armed::die("after a commit");
    }
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    /// Whether the next commit is the last thing to happen.
    pub static DUE: AtomicBool = AtomicBool::new(false);

    static POINT: LazyLock<Option<Point>> = LazyLock::new(|| {
        let named = std::env::var("SWITCHBOARD_FAILPOINT").ok()?;
        let survives = named.strip_suffix(":panic");
        let (name, times) = survives.unwrap_or(&named).rsplit_once(':')?;
        let left = AtomicU64::new(times.parse().ok()?);
        Some(Point { name: name.to_owned(), left, survives: survives.is_some() })
    });

    struct Point {
        name: String,
        left: AtomicU64,
        /// Whether the process does.
        survives: bool,
    }

    pub fn reached(name: &str) -> bool {
        POINT
            .as_ref()
            .is_some_and(|point| point.name == name && point.left.fetch_sub(1, Ordering::SeqCst) == 1)
    }

    pub fn die(name: &str) -> ! {
        eprintln!("failpoint: {name}");
        if POINT.as_ref().is_some_and(|point| point.survives) {
            panic!("at a failpoint");
        }
        std::process::abort()
    }
}
