//! The rules of all backends.

use super::{directory, server, service};
use crate::backend::conformance::Subject;

async fn start() -> Subject {
    Subject {
        service: service(server().await.endpoint()),
        directory: directory(),
        disk: None,
        keep: Box::new(()),
    }
}

crate::backend::conformance::suite!(super::start);
