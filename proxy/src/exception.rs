//! Dated relaxations of a rule.

use chrono::NaiveDate;

/// Who allowed a relaxation, why, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exception {
    pub reason: String,
    pub approver: String,
    /// The last day on which it holds, UTC.
    pub expires: NaiveDate,
}
