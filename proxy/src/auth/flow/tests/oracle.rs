//! Who may be in, decided from a log of what was verified and for whom. Written apart from the flow: it knows no exchange, no
//! method, no question and no mode, and remembers all that was ever right.

/// Whom a request was for: a name, and the account of that name with its epoch, if there is an enabled one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Who {
    pub(super) name: usize,
    pub(super) account: Option<(i64, i64)>,
}

/// What a request proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    Nothing,
    Password,
    /// The key of this number.
    Key(u8),
    Code,
}

/// What the account may do at the time of the question.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// A key and a code are enough.
    pub(super) pair: bool,
    pub(super) window_minutes: Option<u64>,
    pub(super) window_era: i64,
    /// The time.
    pub(super) minute: u64,
}

/// A login with a key and a password.
#[derive(Debug, Clone, Copy)]
struct Login {
    account: (i64, i64),
    era: i64,
    key: u8,
    minute: u64,
}

/// The judge of all connections.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    log: Vec<(Who, [Proof; 2])>,
    logins: Vec<Login>,
}

impl Oracle {
    /// A new connection, or one that has said success: nothing was shown on it.
    pub(super) fn begin(&mut self) {
        self.log.clear();
    }

    pub(super) fn observe(&mut self, who: Who, proofs: [Proof; 2]) {
        self.log.push((who, proofs));
    }

    /// What the present user has shown since somebody else's name, account or epoch stood in a request.
    fn own(&self) -> impl Iterator<Item = Proof> {
        let present = self.log.last().map(|(who, _)| *who);
        self.log
            .iter()
            .rev()
            .take_while(move |(who, _)| Some(*who) == present)
            .flat_map(|(_, proofs)| *proofs)
    }

    fn account(&self) -> Option<(i64, i64)> {
        self.log.last().and_then(|(who, _)| who.account)
    }

    pub(super) fn knows(&self) -> bool {
        self.own().any(|proof| proof == Proof::Password)
    }

    pub(super) fn permits(&self, terms: Terms) -> bool {
        let Some(account) = self.account() else {
            return false;
        };
        let code = self.own().any(|proof| proof == Proof::Code);
        let key = |wanted: Option<u8>| {
            self.own().any(|proof| match proof {
                Proof::Key(shown) => wanted.is_none_or(|wanted| wanted == shown),
                Proof::Nothing | Proof::Password | Proof::Code => false,
            })
        };
        let two_classes = self.knows() && (code || key(None));
        let possessions = terms.pair && code && key(None);
        let continues = |login: &Login| {
            let age = terms.minute.checked_sub(login.minute);
            login.account == account
                && login.era == terms.window_era
                && key(Some(login.key))
                && age
                    .zip(terms.window_minutes)
                    .is_some_and(|(age, length)| age < length)
        };
        two_classes || possessions || self.logins.iter().any(continues)
    }

    /// The present user is in: if by a key and a password, it is remembered for that key.
    pub(super) fn entered(&mut self, terms: Terms) {
        let last_key = self.own().find_map(|proof| match proof {
            Proof::Key(key) => Some(key),
            Proof::Nothing | Proof::Password | Proof::Code => None,
        });
        if let (true, Some(account), Some(key)) = (self.knows(), self.account(), last_key) {
            self.logins.push(Login {
                account,
                era: terms.window_era,
                key,
                minute: terms.minute,
            });
        }
        // The windows that are tried are among the last few.
        let surplus = self.logins.len().saturating_sub(64);
        self.logins.drain(..surplus);
        self.begin();
    }
}
