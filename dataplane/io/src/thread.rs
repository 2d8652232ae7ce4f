//! Where a thread runs, and for how long it has.

use std::io;
use std::time::Duration;

/// Binds the calling thread to one processor.
pub fn pin(core: usize) -> io::Result<()> {
    if core >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: a cpu_set_t is a bit mask; all zeroes is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: core < CPU_SETSIZE (checked), so the bit lies in the set.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: thread 0 is the caller; the set outlives the call, and its size is given.
    let outcome = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The CPU time that the calling thread has used (`CLOCK_THREAD_CPUTIME_ID`).
pub fn cpu_time() -> io::Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec that outlives the call, which writes nothing else.
    let outcome = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    match outcome {
        // CPU time is not negative, and its nanoseconds are below 10^9 (clock_gettime(2)).
        0 => Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The time stamp counter's rate in Hz, from the kernel's own calibration (BogoMIPS is twice that); 0 if it says none.
pub fn tsc_hz() -> f64 {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find(|line| line.starts_with("bogomips"));
    let mips =
        line.and_then(|line| line.split(':').nth(1)).and_then(|value| value.trim().parse::<f64>().ok());
    mips.unwrap_or(0.0) / 2.0 * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_goes_on_with_work_and_stands_still_asleep() {
        let start = cpu_time().unwrap();
        while cpu_time().unwrap() - start < Duration::from_millis(5) {}
        let asleep = cpu_time().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert!(cpu_time().unwrap() - asleep < Duration::from_millis(25));
    }
}
