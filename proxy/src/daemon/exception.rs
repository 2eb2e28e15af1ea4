//! Dated exceptions: they are told of loudly, and end while the gateway runs too.

use std::{sync::Arc, time::Duration};

use chrono::{NaiveDate, Utc};
use futures_util::future::{BoxFuture, FutureExt as _, ready};
use portcullis_journal::Recorded;

use crate::{
    backend::{
        Backend, BackendError, BackendService, Capabilities, ErrorKind, Execution, Origin, Owner,
    },
    config::Config,
    exception::Exception,
    policy::Permit,
};

/// How often the date is looked at, since the clock may be set.
const DATE_CHECK: Duration = Duration::from_secs(30);

/// Warns of every exception that the configuration rests on.
pub(super) fn announce(config: &Config) {
    let policy = &config.server.cipher_policy;
    if let Some(exception) = policy.exception() {
        let Exception {
            reason,
            approver,
            expires,
        } = exception;
        tracing::warn!(policy = policy.name(), %expires, approver, reason, "algorithms weaker than the default's are offered under an exception");
    }
    for (backend, exception) in config.plaintext_exceptions() {
        let Exception {
            reason,
            approver,
            expires,
        } = exception;
        tracing::warn!(backend, %expires, approver, reason, "a backend is reached in clear under an exception");
    }
    for (backend, exception) in config.unencrypted_exceptions() {
        let Exception {
            reason,
            approver,
            expires,
        } = exception;
        tracing::warn!(backend, %expires, approver, reason, "files lie on a backend unencrypted under an exception");
    }
}

/// Resolves once the day after `last` has begun, UTC; never without one.
pub(super) async fn over(last: Option<NaiveDate>) {
    let Some(last) = last else {
        return std::future::pending().await;
    };
    loop {
        let now = Utc::now();
        if now.date_naive() > last {
            return;
        }
        let midnight = last
            .succ_opt()
            .and_then(|day| day.and_hms_opt(0, 0, 0))
            .and_then(|midnight| (midnight.and_utc() - now).to_std().ok());
        let wait = midnight.map_or(DATE_CHECK, |left| left.min(DATE_CHECK));
        tokio::time::sleep(wait + Duration::from_millis(1)).await;
    }
}

/// The service while its exception lasts. Sessions that began before go on to their limit.
#[derive(Debug)]
pub(super) struct Dated {
    service: Arc<dyn BackendService>,
    /// The last day, UTC.
    last: NaiveDate,
    today: fn() -> NaiveDate,
}

impl Dated {
    pub(super) fn new(service: Arc<dyn BackendService>, last: NaiveDate) -> Self {
        Self {
            service,
            last,
            today: || Utc::now().date_naive(),
        }
    }
}

impl BackendService for Dated {
    fn session(&self, directory: &[u8], owner: &Owner) -> Arc<dyn Backend> {
        let session = self.service.session(directory, owner);
        if (self.today)() <= self.last {
            session
        } else {
            Arc::new(Expired {
                capabilities: session.capabilities(),
                last: self.last,
            })
        }
    }
}

/// Refuses everything.
#[derive(Debug)]
struct Expired {
    capabilities: Capabilities,
    last: NaiveDate,
}

impl Backend for Expired {
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn execute(&self, _recorded: Recorded<Permit>) -> Execution {
        let message = format!(
            "the exception that allowed this backend ended on {}",
            self.last
        );
        let error = BackendError::new(ErrorKind::Unavailable, Origin::Gateway, message);
        ready(Err(error)).boxed()
    }

    fn end(&self) -> BoxFuture<'static, ()> {
        ready(()).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::backend::{
        local::{LocalService, LocalSettings},
        staging::UploadSettings,
    };

    #[tokio::test]
    async fn an_exception_is_over_on_the_day_after_its_last_one_and_not_before() {
        let today = Utc::now().date_naive();
        assert!(over(today.pred_opt()).now_or_never().is_some());
        assert!(over(today.succ_opt()).now_or_never().is_none());
        assert!(over(None).now_or_never().is_none());
    }

    #[test]
    fn a_session_is_opened_on_the_last_day_and_not_on_the_day_after() {
        let directory = tempfile::tempdir().unwrap();
        let service = Arc::new(
            LocalService::new(LocalSettings {
                directory: directory.path().to_owned(),
                uploads: UploadSettings::default(),
                timeout: Duration::from_secs(30),
            })
            .unwrap(),
        );
        let last = NaiveDate::from_ymd_opt(2027, 6, 30).unwrap();
        let owner = Owner::new(*b"alice");
        let mut dated = Dated::new(service, last);
        dated.today = || NaiveDate::from_ymd_opt(2027, 6, 30).unwrap();
        assert!(!format!("{:?}", dated.session(b"/", &owner)).starts_with("Expired"));
        dated.today = || NaiveDate::from_ymd_opt(2027, 7, 1).unwrap();
        assert!(format!("{:?}", dated.session(b"/", &owner)).starts_with("Expired"));
    }
}
