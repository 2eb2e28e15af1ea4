//! [`PathRules`]: what is permitted at single places of a mount.
//!
//! The first rule whose pattern matches the path decides, whatever it gives; where none matches, the mount's own permissions
//! hold. A pattern that begins with `/` counts from the mount's directory, another one is compared with the last name of the
//! path. `*`, `?` and `[a-z]` stand for characters of one name, `**` for any number of names. Names are bytes.

use std::{ffi::OsStr, fmt, os::unix::ffi::OsStrExt as _, path::Path, str::FromStr, sync::Arc};

use globset::{GlobBuilder, GlobMatcher};

use super::{Mount, Permission, PermissionError, Permissions};
use crate::path::RelativePath;

/// Most rules of a mount; each is compared with each path.
const RULES_MAX: usize = 64;
/// Longest pattern, in bytes.
const PATTERN_MAX: usize = 1024;

/// The rules of a mount, in the order in which they are asked.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct PathRules(Arc<[PathRule]>);

/// `PATTERN=PERMISSIONS`.
#[derive(Debug, Clone)]
pub struct PathRule {
    pattern: String,
    permissions: Permissions,
    matcher: GlobMatcher,
    scope: Scope,
}

/// What a pattern is compared with.
#[derive(Debug, Clone)]
enum Scope {
    /// The last name.
    Name,
    /// The path from the mount's directory on.
    Place {
        names: Vec<NamePattern>,
        /// Of a pattern that ends in `/**`: what stands before it.
        top: Option<GlobMatcher>,
    },
}

#[derive(Debug, Clone)]
enum NamePattern {
    Exactly(String),
    /// One name, of many.
    Some,
    /// `**`
    AnyNumber,
}

/// How much of what lies below a path a rule decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Nothing,
    Something,
    Everything,
}

/// Why a text is not a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathRuleError {
    #[error(
        "{text:?} is not a rule; expected PATTERN=PERMISSIONS, such as \"/in/**=list,read,write\" or \"*.tmp=delete\""
    )]
    Form { text: String },
    #[error("pattern {pattern:?}: {problem}")]
    Pattern { pattern: String, problem: String },
    #[error(transparent)]
    Permission(#[from] PermissionError),
    #[error("a mount can have {RULES_MAX} rules")]
    TooMany,
}

impl PathRules {
    /// # Errors
    /// For more than 64.
    pub fn new(rules: Vec<PathRule>) -> Result<Self, PathRuleError> {
        if rules.len() > RULES_MAX {
            return Err(PathRuleError::TooMany);
        }
        Ok(Self(rules.into()))
    }

    /// Reads one rule from each text.
    ///
    /// # Errors
    /// For the first that is none.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, PathRuleError> {
        let rules = texts.iter().map(|text| text.as_ref().parse());
        Self::new(rules.collect::<Result<_, _>>()?)
    }

    /// As [`parse`](Self::parse) reads them.
    pub fn texts(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, index: usize) -> Option<&PathRule> {
        self.0.get(index)
    }

    /// The number of the rule that decides whether `permission` holds at `target`.
    fn deciding(&self, target: &RelativePath, permission: Permission) -> Option<usize> {
        self.0
            .iter()
            .position(|rule| rule.covers(target, permission))
    }

    /// The number of the rule by place that decides for all that lies below `target`, or `None` for the mount's own
    /// permissions. Rules by name are left out: they go where the names go.
    ///
    /// # Errors
    /// If rules differ there.
    fn deciding_below(&self, target: &RelativePath) -> Result<Option<usize>, RulesDiffer> {
        for (index, rule) in self.0.iter().enumerate() {
            match rule.reach_below(target) {
                Reach::Nothing => {}
                Reach::Something => return Err(RulesDiffer),
                Reach::Everything => return Ok(Some(index)),
            }
        }
        Ok(None)
    }
}

/// Different rules hold below a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RulesDiffer;

impl Mount {
    /// Whether `permission` holds at `target`, and the number of the rule that says so; `None` if no rule matches and the
    /// mount's own permissions hold.
    pub fn ruling(&self, target: &RelativePath, permission: Permission) -> (bool, Option<usize>) {
        let rule = self.rules.deciding(target, permission);
        let permissions = rule
            .and_then(|index| self.rules.get(index))
            .map_or(&self.permissions, |rule| &rule.permissions);
        (permissions.has(permission), rule)
    }

    /// All that is permitted at `target`.
    pub fn permissions_at(&self, target: &RelativePath) -> Permissions {
        Permissions::of(|permission| self.ruling(target, permission).0)
    }

    pub(super) fn deciding_below(
        &self,
        target: &RelativePath,
    ) -> Result<Option<usize>, RulesDiffer> {
        self.rules.deciding_below(target)
    }

    /// Its own permissions, and those of each rule: what is in none of them holds nowhere on it.
    pub fn grants(&self) -> impl Iterator<Item = &Permissions> {
        let ruled = self.rules.0.iter().map(PathRule::permissions);
        std::iter::once(&self.permissions).chain(ruled)
    }

    /// True if symbolic links can be made somewhere on it.
    pub(super) fn grants_symlinks(&self) -> bool {
        self.grants().any(|permissions| permissions.symlink)
    }
}

impl PathRule {
    /// The pattern as it was written.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    pub fn permissions(&self) -> &Permissions {
        &self.permissions
    }

    fn covers(&self, target: &RelativePath, permission: Permission) -> bool {
        match &self.scope {
            Scope::Name => target
                .file_name()
                .is_some_and(|name| self.matcher.is_match(as_path(name))),
            Scope::Place { top, .. } => {
                let place = place(target);
                let path = as_path(&place);
                // Who may list what is below a directory may list the directory.
                let is_listed_top = permission == Permission::List
                    && top.as_ref().is_some_and(|top| top.is_match(path));
                is_listed_top || self.matcher.is_match(path)
            }
        }
    }

    fn reach_below(&self, target: &RelativePath) -> Reach {
        let Scope::Place { names, top } = &self.scope else {
            return Reach::Nothing;
        };
        if let Some(top) = top {
            let place = place(target);
            let path = as_path(&place);
            if top.is_match(path) || self.matcher.is_match(path) {
                return Reach::Everything;
            }
        }
        let mut patterns = names.iter();
        for name in target.components() {
            match patterns.next() {
                None => return Reach::Nothing,
                Some(NamePattern::AnyNumber) => return Reach::Something,
                Some(NamePattern::Some) => {}
                Some(NamePattern::Exactly(expected)) => {
                    if expected.as_bytes() != name {
                        return Reach::Nothing;
                    }
                }
            }
        }
        match patterns.next() {
            None => Reach::Nothing,
            Some(_) => Reach::Something,
        }
    }
}

fn place(target: &RelativePath) -> Vec<u8> {
    let mut place = Vec::with_capacity(1 + target.as_bytes().len());
    place.push(b'/');
    place.extend_from_slice(target.as_bytes());
    place
}

fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

impl FromStr for PathRule {
    type Err = PathRuleError;

    fn from_str(text: &str) -> Result<Self, PathRuleError> {
        let (pattern, permissions) =
            text.trim()
                .rsplit_once('=')
                .ok_or_else(|| PathRuleError::Form {
                    text: text.to_owned(),
                })?;
        let permissions = Permissions::parse(permissions)?;
        let wrong = |problem: &str| PathRuleError::Pattern {
            pattern: pattern.to_owned(),
            problem: problem.to_owned(),
        };
        check_pattern(pattern).map_err(wrong)?;
        let compiled = |pattern: &str| {
            GlobBuilder::new(pattern)
                .literal_separator(true)
                .backslash_escape(false)
                .build()
                .map(|glob| glob.compile_matcher())
                .map_err(|error| wrong(&error.kind().to_string()))
        };
        let scope = if let Some(place) = pattern.strip_prefix('/') {
            let top = pattern.strip_suffix("/**").map(|top| {
                // The mount's directory itself.
                compiled(if top.is_empty() { "/" } else { top })
            });
            Scope::Place {
                names: place.split('/').map(name_pattern).collect(),
                top: top.transpose()?,
            }
        } else {
            Scope::Name
        };
        Ok(Self {
            matcher: compiled(pattern)?,
            pattern: pattern.to_owned(),
            permissions,
            scope,
        })
    }
}

fn check_pattern(pattern: &str) -> Result<(), &'static str> {
    if pattern.is_empty() || pattern.len() > PATTERN_MAX {
        return Err("it is empty or longer than 1024 bytes");
    }
    if pattern.contains(['\\', '{', '}', '\0']) {
        return Err(
            "\\, { and } mean nothing here; write [*] for a star and a rule for each choice",
        );
    }
    let Some(place) = pattern.strip_prefix('/') else {
        return if pattern.contains('/') || pattern.contains("**") {
            Err("a pattern of a place begins with /")
        } else {
            Ok(())
        };
    };
    let mut in_class = false;
    for character in pattern.chars() {
        match character {
            '[' => in_class = true,
            ']' => in_class = false,
            '/' if in_class => return Err("/ can't stand between [ and ]"),
            _ => {}
        }
    }
    for name in place.split('/') {
        if name.is_empty() || name == "." || name == ".." {
            return Err("it has an empty name, . or ..");
        }
        if name.contains("**") && name != "**" {
            return Err("** stands for whole names");
        }
    }
    Ok(())
}

fn name_pattern(name: &str) -> NamePattern {
    if name == "**" {
        NamePattern::AnyNumber
    } else if name.contains(['*', '?', '[']) {
        NamePattern::Some
    } else {
        NamePattern::Exactly(name.to_owned())
    }
}

impl PartialEq for PathRule {
    fn eq(&self, other: &Self) -> bool {
        self.pattern == other.pattern && self.permissions == other.permissions
    }
}

impl Eq for PathRule {}

impl fmt::Display for PathRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.pattern, self.permissions)
    }
}

impl fmt::Debug for PathRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.texts()).finish()
    }
}
