//! Dated exceptions: `{ reason = "...", approver = "...", expires = "2027-06-30" }`.

use chrono::NaiveDate;

use super::section::Section;
use crate::exception::Exception;

/// Reads an exception that has not ended. `reason` says what its reason has to explain, `way_out` what to do without it.
pub(super) fn exception(
    mut section: Section<'_>,
    reason: &'static str,
    way_out: &str,
    today: NaiveDate,
) -> Option<Exception> {
    const DAY: &str = "a day, such as \"2027-06-30\"";
    let reason = section.required_text("reason", reason);
    let approver = section.required_text("approver", "who accepted the risk");
    let expires = section.required_text("expires", DAY);
    let expires = expires.and_then(|text| match text.parse::<NaiveDate>() {
        Ok(day) if day < today => {
            let problem =
                format!("the exception ended on {day}; {way_out} or have a new one approved");
            section.fault("expires", problem);
            None
        }
        Ok(day) => Some(day),
        Err(_) => {
            section.fault(
                "expires",
                format!("{text:?} is not a day such as \"2027-06-30\""),
            );
            None
        }
    });
    section.finish();
    Some(Exception {
        reason: reason?.to_owned(),
        approver: approver?.to_owned(),
        expires: expires?,
    })
}
