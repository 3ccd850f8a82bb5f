//! How moments are written for callers. All are UTC.

use countersign_core::words::time::Timestamp;
use time::OffsetDateTime;
use time::macros::format_description;

/// RFC 3339 with milliseconds: `2023-10-11T06:09:48.563Z`.
pub(crate) fn rfc3339(at: Timestamp) -> String {
    let form = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    calendar(at).format(form).unwrap_or_default()
}

/// The error envelope of the CIAM contract (§5): `2022-06-24-15.30.20`.
pub(crate) fn ciam(at: Timestamp) -> String {
    calendar(at).format(format_description!("[year]-[month]-[day]-[hour].[minute].[second]")).unwrap_or_default()
}

/// The time of day for people: `15:30:20`.
pub(crate) fn of_day(at: Timestamp) -> String {
    calendar(at).format(format_description!("[hour]:[minute]:[second]")).unwrap_or_default()
}

fn calendar(at: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.as_millis()) * 1_000_000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_as_the_contracts_show_it() {
        let at = Timestamp::from_millis(1_697_004_588_563);
        assert_eq!(rfc3339(at), "2023-10-11T06:09:48.563Z");
        assert_eq!(ciam(at), "2023-10-11-06.09.48");
        assert_eq!(of_day(at), "06:09:48");
    }
}
