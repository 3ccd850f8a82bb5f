//! Descriptors: as many as the system gives, and no more connections than they suffice for.
//!
//! Owns the limit of open files. A server without a free descriptor accepts nobody, and its database cannot be opened either.

use crate::config::Limits;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that are no callers': the database and its readers, calls to providers, certificates, logs.
const RESERVE: u64 = 256;

/// Raises the limit of open files as far as it may be, and caps the connections to what it suffices for.
pub fn provide(limits: Limits) -> Limits {
    let connections = suffices_for(limits.connections, raise());
    if connections < limits.connections {
        tracing::warn!(
            "limits.connections is {}, and the limit of open files suffices for {connections}: no more are let in. Raise the hard \
             limit (ulimit -Hn, or LimitNOFILE of the service)",
            limits.connections
        );
    }
    Limits { connections, ..limits }
}

/// How many files may be open from now on; `None` for any number.
fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(why) => {
            tracing::warn!("The limit of open files cannot be raised to the hard one: {why}");
            current
        }
    }
}

/// How many of the connections that are `wanted` there are descriptors for. Where the reserve would leave next to none, half.
fn suffices_for(wanted: usize, limit: Option<u64>) -> usize {
    let Some(limit) = limit else { return wanted };
    let left = limit.saturating_sub(RESERVE).max(limit / 2);
    wanted.min(usize::try_from(left).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_never_more_connections_than_descriptors_and_a_reserve_stays() {
        for (wanted, limit, let_in) in [
            (10_000, None, 10_000),
            (10_000, Some(1024), 768),
            (10_000, Some(524_288), 10_000),
            (100, Some(1024), 100),
            (10_000, Some(64), 32),
        ] {
            assert_eq!(suffices_for(wanted, limit), let_in, "{limit:?}");
        }
    }

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let raised = raise();
        let now = getrlimit(Resource::Nofile);
        assert!(raised == now.current && now.current == now.maximum, "{now:?}");
    }
}
