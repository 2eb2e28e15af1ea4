//! QR codes on a terminal.

use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};
use zeroize::Zeroizing;

/// Why a text can't be drawn.
#[derive(Debug, thiserror::Error)]
#[error("draw the QR code")]
pub struct DrawError(#[from] qrcode::types::QrError);

/// `text` as a QR code in UTF-8 half blocks, for a dark terminal; lines end with `\n`, the last one without.
///
/// # Errors
/// If it is too long for a QR code.
pub fn draw(text: &str) -> Result<Zeroizing<String>, DrawError> {
    let code = QrCode::with_error_correction_level(text.as_bytes(), EcLevel::L)?;
    // Terminals are dark: the light modules are the ones to draw.
    let drawing = code
        .render::<Dense1x2>()
        .dark_color(Dense1x2::Light)
        .light_color(Dense1x2::Dark)
        .build();
    Ok(Zeroizing::new(drawing))
}
