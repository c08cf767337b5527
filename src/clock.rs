//! Time: the wall clock for what is shown and stored, the monotonic one for durations.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Milliseconds since the Unix epoch, UTC.
pub type EpochMs = i64;

/// The wall clock. Decides only which price and budget period are current, and what is shown.
pub fn now_ms() -> EpochMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// RFC 3339 in UTC with milliseconds, such as `2026-01-31T12:00:00.000Z`.
pub fn rfc3339(at: EpochMs) -> String {
    let Ok(time) = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at) * 1_000_000) else {
        return at.to_string();
    };
    let (date, hour) = (time.date(), time.time());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        hour.hour(),
        hour.minute(),
        hour.second(),
        hour.millisecond()
    )
}

/// Reads RFC 3339 with any offset.
pub fn parse_rfc3339(text: &str) -> Option<EpochMs> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok()
}

/// The first moment of the UTC day, as `2026-01-31`.
pub fn day(at: EpochMs) -> String {
    rfc3339(at)[..10].to_owned()
}

/// Days since the Unix epoch.
pub fn day_number(at: EpochMs) -> i64 {
    at.div_euclid(86_400_000)
}

/// Months since the year 0.
pub fn month_number(at: EpochMs) -> i64 {
    match OffsetDateTime::from_unix_timestamp(at.div_euclid(1_000)) {
        Ok(time) => i64::from(time.year()) * 12 + i64::from(u8::from(time.month())) - 1,
        Err(_) => 0,
    }
}

/// A monotonic clock that counts nanoseconds from its own start, for the limiter's plain core.
#[derive(Clone, Copy, Debug)]
pub struct Ticks(Instant);

impl Ticks {
    /// Starts to count.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since the start (584 years fit).
    pub fn now(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Whole seconds, rounded up, at least one: the form of `Retry-After`.
pub fn ceil_secs(wait: Duration) -> u64 {
    let whole = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    whole.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_survives_being_written_and_read() {
        let at = 1_769_860_800_123;
        assert_eq!(rfc3339(at), "2026-01-31T12:00:00.123Z");
        assert_eq!(parse_rfc3339(&rfc3339(at)), Some(at));
        assert_eq!(parse_rfc3339("2026-01-31T13:00:00.123+01:00"), Some(at));
        assert_eq!(parse_rfc3339("yesterday"), None);
    }

    #[test]
    fn months_follow_each_other() {
        let january = parse_rfc3339("2026-01-31T23:59:59Z").expect("a time");
        let february = parse_rfc3339("2026-02-01T00:00:00Z").expect("a time");
        assert_eq!(month_number(february), month_number(january) + 1);
        assert_eq!(day_number(february), day_number(january) + 1);
    }
}
