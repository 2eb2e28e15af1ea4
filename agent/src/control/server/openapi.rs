//! The OpenAPI document, as served and as in `docs/`.

/// `docs/openapi.json`.
pub const DOCUMENT: &str = include_str!("../../../../docs/openapi.json");

#[cfg(test)]
mod tests;
