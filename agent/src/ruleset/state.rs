//! How rules at one prefix and at those that cover it come to one class.

use agent_ebpf::class::Class;
use ipnet::IpNet;

use super::{
    RulesetError,
    scopes::{ScopeId, Scopes, SumId},
};

/// An action as a number below 2^24.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Code(pub(super) u32);

impl Code {
    pub(super) const PROTECT: Self = Self(0);
    pub(super) const BAN: Self = Self(1);
    pub(super) const DENY: Self = Self(2);
    pub(super) const ALLOW: Self = Self(3);

    pub(super) fn scoped(scope: ScopeId) -> Self {
        Self(scope + 4)
    }

    pub(super) fn scope(self) -> Option<ScopeId> {
        self.0.checked_sub(4)
    }
}

/// The actions of the rules at one prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Actions {
    One(Code),
    /// In order of their codes, each with how often it is there.
    Many(Box<[(Code, u32)]>),
}

impl Actions {
    pub(super) fn iter(&self) -> impl Iterator<Item = (Code, u32)> {
        let (one, many) = match self {
            Self::One(code) => (Some((*code, 1)), &[][..]),
            Self::Many(many) => (None, &**many),
        };
        one.into_iter().chain(many.iter().copied())
    }

    pub(super) fn add(&mut self, code: Code) {
        let mut many: Vec<(Code, u32)> = self.iter().collect();
        match many.binary_search_by_key(&code, |(code, _)| *code) {
            Ok(at) => {
                if let Some((_, count)) = many.get_mut(at) {
                    *count += 1;
                }
            }
            Err(at) => many.insert(at, (code, 1)),
        }
        *self = Self::Many(many.into());
    }

    /// The actions without this one, once; nothing if it is not there.
    pub(super) fn without(&self, code: Code) -> Option<Rest> {
        let mut many: Vec<(Code, u32)> = self.iter().collect();
        let at = many.binary_search_by_key(&code, |(code, _)| *code).ok()?;
        let (_, count) = many.get_mut(at)?;
        *count -= 1;
        if *count == 0 {
            many.remove(at);
        }
        Some(match many.as_slice() {
            [] => Rest::Nothing,
            [(code, 1)] => Rest::Actions(Self::One(*code)),
            _ => Rest::Actions(Self::Many(many.into())),
        })
    }
}

/// What is left at a prefix.
pub(super) enum Rest {
    Nothing,
    Actions(Actions),
}

/// What rules of prefixes that cover each other come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct State {
    is_protected: bool,
    is_banned: bool,
    is_denied: bool,
    allowed: Allowed,
}

/// What is allowed by rules more specific than any denial.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Allowed {
    #[default]
    Nothing,
    Scoped(SumId),
    Everything,
}

impl State {
    /// With the rules of a prefix more specific than those before.
    pub(super) fn with_narrower(mut self, actions: &Actions, scopes: &mut Scopes) -> Self {
        if let Actions::One(Code::ALLOW) = actions {
            self.allowed = Allowed::Everything;
            return self;
        }
        // `Deny` comes before `Allow` in the order of codes.
        let mut denies_here = false;
        for (code, _) in actions.iter() {
            match code {
                Code::PROTECT => self.is_protected = true,
                Code::BAN => self.is_banned = true,
                Code::DENY => {
                    self.is_denied = true;
                    self.allowed = Allowed::Nothing;
                    denies_here = true;
                }
                _ if denies_here => {}
                _ => {
                    self.allowed = match (self.allowed, code.scope()) {
                        (Allowed::Everything, _) | (_, None) => Allowed::Everything,
                        (Allowed::Nothing, Some(scope)) => {
                            Allowed::Scoped(scopes.join(None, scope))
                        }
                        (Allowed::Scoped(sum), Some(scope)) => {
                            Allowed::Scoped(scopes.join(Some(sum), scope))
                        }
                    };
                }
            }
        }
        self
    }

    /// Adds the rules of a prefix wider than those before. The scopes that count go to `allow`: [`Allowed::Scoped`] then
    /// holds no sum of its own.
    pub(super) fn add_wider(&mut self, actions: &Actions, allow: &mut dyn FnMut(ScopeId)) {
        let was_denied = self.is_denied;
        for (code, _) in actions.iter() {
            match code {
                Code::PROTECT => self.is_protected = true,
                Code::BAN => self.is_banned = true,
                Code::DENY => self.is_denied = true,
                _ if was_denied || self.is_denied => {}
                _ => match code.scope() {
                    None => self.allowed = Allowed::Everything,
                    Some(scope) => {
                        if self.allowed != Allowed::Everything {
                            self.allowed = Allowed::Scoped(SumId::MAX);
                        }
                        allow(scope);
                    }
                },
            }
        }
    }

    /// Its class.
    pub(super) fn class(
        self,
        scopes: &mut Scopes,
        prefix: impl Fn() -> IpNet,
    ) -> Result<Class, RulesetError> {
        if self.is_decided_by_scopes()
            && let Allowed::Scoped(sum) = self.allowed
        {
            return scopes.class(sum, prefix);
        }
        Ok(self.class_with(|| Class::NOT_LISTED))
    }

    fn is_decided_by_scopes(self) -> bool {
        !self.is_protected && !self.is_banned
    }

    /// Its class, where `scoped` is that of the scopes.
    pub(super) fn class_with(self, scoped: impl FnOnce() -> Class) -> Class {
        if self.is_protected {
            return Class::PROTECTED;
        }
        if self.is_banned {
            return Class::BANNED;
        }
        match self.allowed {
            Allowed::Everything => Class::ALLOWED,
            Allowed::Scoped(_) => scoped(),
            Allowed::Nothing if self.is_denied => Class::DENIED,
            Allowed::Nothing => Class::NOT_LISTED,
        }
    }

    /// The sum of its scopes joined with what [`State::add_wider`] was given.
    pub(super) fn set_scopes(&mut self, allowing: &[ScopeId], scopes: &mut Scopes) {
        if let Allowed::Scoped(_) = self.allowed {
            let sum = allowing
                .iter()
                .fold(None, |sum, scope| Some(scopes.join(sum, *scope)));
            if let Some(sum) = sum {
                self.allowed = Allowed::Scoped(sum);
            }
        }
    }
}
