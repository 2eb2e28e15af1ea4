//! A backend that may be used up to a day: a dated exception also ends while the gateway runs.

use std::sync::Arc;

use chrono::{NaiveDate, Utc};
use futures_util::future::{BoxFuture, FutureExt as _, ready};
use portcullis_journal::Recorded;

use crate::{
    backend::{
        Backend, BackendError, BackendService, Capabilities, ErrorKind, Execution, Origin, Owner,
    },
    policy::Permit,
};

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
    use std::time::Duration;

    use crate::backend::{
        local::{LocalService, LocalSettings},
        staging::UploadSettings,
    };

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
