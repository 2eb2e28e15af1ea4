use super::*;

fn document(code: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code><Message>m\x1b[31m</Message></Error>"
    )
}

#[test]
fn an_answer_is_judged_by_its_code_then_by_its_status() {
    for (status, code, kind, origin) in [
        (404, "NoSuchKey", ErrorKind::NotFound, Origin::Backend),
        (404, "", ErrorKind::NotFound, Origin::Backend),
        (404, "NoSuchBucket", ErrorKind::Unavailable, Origin::Gateway),
        (404, "NoSuchUpload", ErrorKind::Failure, Origin::Backend),
        (
            403,
            "AccessDenied",
            ErrorKind::PermissionDenied,
            Origin::Backend,
        ),
        (
            403,
            "InvalidAccessKeyId",
            ErrorKind::Unavailable,
            Origin::Gateway,
        ),
        (
            403,
            "SignatureDoesNotMatch",
            ErrorKind::Unavailable,
            Origin::Gateway,
        ),
        (403, "QuotaExceeded", ErrorKind::NoSpace, Origin::Backend),
        (
            412,
            "PreconditionFailed",
            ErrorKind::AlreadyExists,
            Origin::Backend,
        ),
        (409, "OperationAborted", ErrorKind::Failure, Origin::Backend),
        (
            400,
            "KeyTooLongError",
            ErrorKind::InvalidArgument,
            Origin::Backend,
        ),
        (400, "EntityTooLarge", ErrorKind::Failure, Origin::Backend),
        (
            501,
            "NotImplemented",
            ErrorKind::Unsupported,
            Origin::Backend,
        ),
        (503, "SlowDown", ErrorKind::Unavailable, Origin::Backend),
        (507, "", ErrorKind::NoSpace, Origin::Backend),
        (
            404,
            "ContainerNotFound",
            ErrorKind::Unavailable,
            Origin::Gateway,
        ),
        (404, "BlobNotFound", ErrorKind::NotFound, Origin::Backend),
        (
            409,
            "BlobAlreadyExists",
            ErrorKind::AlreadyExists,
            Origin::Backend,
        ),
        (412, "LeaseIdMissing", ErrorKind::Failure, Origin::Backend),
        (
            403,
            "AuthenticationFailed",
            ErrorKind::Unavailable,
            Origin::Gateway,
        ),
        (
            403,
            "AuthorizationPermissionMismatch",
            ErrorKind::PermissionDenied,
            Origin::Backend,
        ),
        (
            301,
            "PermanentRedirect",
            ErrorKind::Unavailable,
            Origin::Backend,
        ),
        (418, "Teapot", ErrorKind::Failure, Origin::Backend),
    ] {
        let error = Fault::refused("PUT", status, &document(code)).at("bucket b at e");
        assert_eq!(
            (error.kind, error.origin),
            (kind, origin),
            "{status} {code}"
        );
    }
}

#[test]
fn a_message_names_the_bucket_and_shows_no_control_characters() {
    let error = Fault::refused("PUT", 503, &document("SlowDown")).at("bucket b at e");
    assert_eq!(
        error.message,
        "bucket b at e: PUT was answered 503 SlowDown: m [31m"
    );
    let error = Fault::refused("LIST", 404, &document("NoSuchBucket")).at("bucket b at e");
    assert!(
        error.message.ends_with("check the backend's bucket"),
        "{error}"
    );
}

#[test]
fn what_may_have_been_done_is_not_repeated_and_what_was_not_is() {
    let refused = |status| Fault::refused("COPY", status, "");
    for (fault, did_nothing, leaves_open) in [
        (refused(503), true, false),
        (refused(429), true, false),
        (refused(500), false, true),
        (refused(504), false, true),
        (refused(412), false, false),
        (refused(403), false, false),
        (
            Fault::Lost {
                request: "COPY",
                cause: String::new(),
            },
            false,
            true,
        ),
        (
            Fault::Unreachable {
                request: "COPY",
                cause: String::new(),
            },
            true,
            false,
        ),
    ] {
        assert_eq!(
            (fault.did_nothing(), fault.leaves_open()),
            (did_nothing, leaves_open),
            "{fault}"
        );
    }
}

#[test]
fn a_kept_condition_is_told_from_a_lease() {
    let refused = |status, code| Fault::refused("PUT", status, &document(code));
    assert!(refused(412, "ConditionNotMet").is_failed_precondition());
    assert!(refused(409, "BlobAlreadyExists").is_failed_precondition());
    assert!(!refused(412, "LeaseIdMissing").is_failed_precondition());
    assert!(!refused(409, "OperationAborted").is_failed_precondition());
}

#[test]
fn only_requests_that_change_something_leave_open_whether_they_were_done() {
    let lost = |request| Fault::Lost {
        request,
        cause: "reset".to_owned(),
    };
    assert!(lost("COMPLETE").to_string().contains("is not known"));
    assert!(!lost("GET").to_string().contains("is not known"));
}
