//! What every backend does alike, as tests that each of them passes.
//!
//! A backend's tests name the suite once: `crate::backend::conformance::suite!(start);` where `start` is an
//! `async fn() -> Subject`. What a backend can't do, its [`Capabilities`](super::Capabilities) say, and the suite checks
//! that it says so when asked.

mod client;
mod files;
mod names;
mod resumption;
mod tending;
mod uploads;

use std::{any::Any, fmt, path::PathBuf, sync::Arc};

pub(crate) use self::{
    client::{Client, READ, REPLACE, WRITE, opened_handle},
    tending::{Keys, NEW, OLD},
};
use super::{BackendService, Owner};
use crate::testing;

/// A backend under test, with an empty directory for the suite.
pub(crate) struct Subject {
    pub(crate) service: Arc<dyn BackendService>,
    /// The mount's directory, as an account's mount names it.
    pub(crate) directory: Vec<u8>,
    /// Where that directory is on this machine's disk, if it is: there the suite looks for what a backend left behind.
    pub(crate) disk: Option<PathBuf>,
    /// What must live as long as the test: a temporary directory, a server.
    pub(crate) keep: Box<dyn Any + Send + Sync>,
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Subject({:?})", self.service)
    }
}

impl Subject {
    /// A new session.
    pub(crate) fn client(&self) -> Client {
        self.client_of(&testing::owner())
    }

    /// A new session of another account.
    pub(crate) fn client_of(&self, owner: &Owner) -> Client {
        let _ = &self.keep;
        Client::new(self.service.session(&self.directory, owner))
    }

    /// The names that stand in the directory on disk, sorted, uploads in progress included.
    pub(crate) fn names_on_disk(&self) -> Option<Vec<std::ffi::OsString>> {
        let mut names: Vec<_> = std::fs::read_dir(self.disk.as_ref()?)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        Some(names)
    }

    /// Fails the test if anything but `expected` stands in the directory on disk.
    pub(crate) fn expect_on_disk(&self, expected: &[&str]) {
        if let Some(names) = self.names_on_disk() {
            assert_eq!(names, expected, "what is left on disk");
        }
    }
}

/// True if `rule` is one of the words.
pub(crate) fn names_rule(words: &str, rule: &str) -> bool {
    words
        .split(|character: char| !character.is_ascii_alphanumeric() && character != '_')
        .any(|word| word == rule)
}

macro_rules! rules {
    ($($rule:ident in $module:ident;)*) => {
        /// Makes one test of each rule, or of each but those that the server can't keep: `without that`, or
        /// `without [this that]`.
        macro_rules! suite {
            ($start:path) => {
                $crate::backend::conformance::suite!($start, without nothing);
            };
            ($start:path, without $exceptions:tt) => {
                mod conformance {
                    $(
                        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                        async fn $rule() {
                            let exceptions = stringify!($exceptions);
                            if $crate::backend::conformance::names_rule(exceptions, stringify!($rule)) {
                                return;
                            }
                            let subject = $start().await;
                            let rule = $crate::backend::conformance::rules::$rule(&subject);
                            tokio::time::timeout(std::time::Duration::from_secs(60), rule)
                                .await
                                .expect("the rule is checked within a minute");
                        }
                    )*
                }
            };
        }

        /// All rules.
        pub(crate) mod rules {
            $(pub(crate) use super::$module::$rule;)*
        }
    };
}

rules! {
    an_upload_appears_complete_at_close_and_not_before in uploads;
    an_empty_upload_is_an_empty_file in uploads;
    an_upload_that_is_not_closed_is_withdrawn_with_its_session in uploads;
    a_replaced_file_is_the_old_one_until_close in uploads;
    an_exclusive_upload_leaves_an_existing_file_alone in uploads;
    an_exclusive_upload_leaves_a_file_alone_that_appeared_meanwhile in uploads;
    an_update_keeps_the_rest_of_the_file_and_shows_at_close in uploads;
    an_append_goes_to_the_end in uploads;
    an_upload_to_a_missing_directory_or_over_a_directory_is_refused in uploads;
    writing_without_creating_needs_a_file in uploads;
    pipelined_writes_arrive_in_order_and_whole in uploads;
    writes_out_of_order_land_where_they_belong in uploads;
    an_upload_is_synced_on_request_and_goes_on in uploads;
    a_session_reads_what_it_uploads_and_no_other_does in uploads;
    a_handle_that_reads_an_upload_outlives_it in uploads;
    mode_and_time_set_while_uploading_survive_publication in uploads;
    an_interrupted_upload_is_resumed_and_ends_byte_identical in resumption;
    an_upload_that_is_interrupted_twice_is_resumed_twice in resumption;
    another_account_neither_sees_nor_continues_an_interrupted_upload in resumption;
    an_open_that_truncates_discards_the_interrupted_upload in resumption;
    a_write_from_the_beginning_does_not_keep_the_interrupted_end in resumption;
    a_file_that_stands_hides_the_interrupted_upload in resumption;
    an_interrupted_upload_that_is_closed_unwritten_is_not_published in resumption;
    an_upload_with_a_gap_can_not_be_resumed in resumption;
    two_uploads_to_one_path_at_once_do_not_mix in resumption;
    what_was_not_written_in_order_is_digested_from_the_file in resumption;
    three_megabytes_come_back_as_they_went in files;
    a_read_past_the_end_is_an_end_and_not_an_error in files;
    a_handle_is_good_until_it_is_closed in files;
    many_handles_are_open_at_once_and_not_mixed_up in files;
    an_ended_session_does_nothing_more in files;
    attributes_tell_files_from_directories in files;
    set_attributes_stay in files;
    a_rename_moves_and_never_replaces in names;
    a_posix_rename_replaces in names;
    a_removed_file_is_gone_and_a_missing_one_is_not_found in names;
    directories_are_made_and_removed_only_while_empty in names;
    a_listing_names_everything_once_and_nothing_else in names;
    a_name_that_is_not_utf8_is_kept_byte_for_byte in names;
    links_are_stored_as_they_were_given in names;
    a_hard_link_is_the_same_file_and_never_replaces in names;
    a_rotation_changes_the_head_of_a_file_and_nothing_else in tending;
    a_file_that_is_not_authentic_is_not_touched in tending;
    a_plain_file_is_encrypted_in_its_place_if_it_is_the_expected_one in tending;
    what_is_copied_takes_its_share_of_the_pace_piece_by_piece in tending;
    what_clients_do_while_files_are_tended_is_never_undone in tending;
    a_file_is_destroyed_if_it_is_the_one_that_was_meant in tending;
}

pub(crate) use suite;
