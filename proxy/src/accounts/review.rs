//! What those did who look at the log: that they read it, what they signed for, and what of it they want kept.

use serde_json::{Map, Value};

use super::{
    AccountsError, Administration,
    administration::timestamp,
    audit::{self, ATTESTATION, HOLD, READING},
    break_glass::NoteId,
};

impl Administration<'_> {
    /// Puts on record that the log is read; `details` say how.
    ///
    /// # Errors
    /// If the database can't be written.
    pub fn note_reading(&self, details: Map<String, Value>) -> Result<NoteId, AccountsError> {
        self.note_look(READING, details)
    }

    /// Puts on record that someone signs for a period; it counts once [`Accounts::is_on_record`] says so of the note.
    ///
    /// [`Accounts::is_on_record`]: super::Accounts::is_on_record
    ///
    /// # Errors
    /// If the database can't be written.
    pub fn attest(&self, details: Map<String, Value>) -> Result<NoteId, AccountsError> {
        self.note_look(ATTESTATION, details)
    }

    /// Takes back an attestation that is not on record; false if it is on record by now.
    ///
    /// # Errors
    /// If the database can't be written.
    pub fn withdraw_attestation(&self, note: NoteId) -> Result<bool, AccountsError> {
        self.withdraw(ATTESTATION, note)
    }

    /// Puts on record that a legal hold was laid or released.
    ///
    /// # Errors
    /// If the database can't be written.
    pub fn note_hold(&self, details: Map<String, Value>) -> Result<NoteId, AccountsError> {
        self.note_look(HOLD, details)
    }

    /// Takes back the release of a hold that is not on record; false if it is on record by now.
    ///
    /// # Errors
    /// If the database can't be written.
    pub fn withdraw_hold(&self, note: NoteId) -> Result<bool, AccountsError> {
        self.withdraw(HOLD, note)
    }

    fn withdraw(&self, action: &'static str, note: NoteId) -> Result<bool, AccountsError> {
        self.accounts.transaction(|transaction| {
            let withdrawn = transaction.execute(
                "DELETE FROM audit_pending WHERE id = ?1 AND action = ?2",
                (note.0, action),
            )?;
            Ok(withdrawn > 0)
        })
    }

    fn note_look(
        &self,
        action: &'static str,
        details: Map<String, Value>,
    ) -> Result<NoteId, AccountsError> {
        self.accounts.transaction(|transaction| {
            let details = Value::Object(details);
            audit::note_of_none(transaction, &timestamp(), &self.actor, action, &details)?;
            Ok(NoteId(transaction.last_insert_rowid()))
        })
    }
}
