//! The rank test of Mann and Whitney: do two lists of times come from one source?

/// The probability that two lists of one source differ at least as much in their ranks (two-sided; normal approximation
/// with the correction for ties and for continuity; needs some 20 values on each side).
///
/// Conover, Practical Nonparametric Statistics, 3rd edition, section 5.1. Not a number if a list is empty; 1 if all values
/// are the same.
pub(super) fn mann_whitney(one: &[f64], other: &[f64]) -> f64 {
    let mut pooled: Vec<(f64, bool)> = one
        .iter()
        .map(|value| (*value, true))
        .chain(other.iter().map(|value| (*value, false)))
        .collect();
    pooled.sort_by(|(a, _), (b, _)| a.total_cmp(b));

    // Equal values share the mean of their ranks.
    let (mut ranks_of_one, mut ties, mut below) = (0.0, 0.0, 0_usize);
    for group in pooled.chunk_by(|(a, _), (b, _)| a.total_cmp(b).is_eq()) {
        let size = group.len() as f64;
        let rank = below as f64 + f64::midpoint(size, 1.0);
        ranks_of_one += rank * group.iter().filter(|(_, is_one)| *is_one).count() as f64;
        ties += size.powi(3) - size;
        below += group.len();
    }

    let (n, m) = (one.len() as f64, other.len() as f64);
    let all = n + m;
    let u = ranks_of_one - n * (n + 1.0) / 2.0;
    let distance = ((u - n * m / 2.0).abs() - 0.5).max(0.0);
    let variance = n * m / 12.0 * ((all + 1.0) - ties / (all * (all - 1.0)));
    if n * m == 0.0 {
        return f64::NAN;
    }
    if variance <= 0.0 {
        return 1.0;
    }
    complementary_error(distance / variance.sqrt() / std::f64::consts::SQRT_2)
}

/// `erfc` for numbers that are not negative, to 1.2e-7 of its value (Press and others, Numerical Recipes, section 6.2).
fn complementary_error(x: f64) -> f64 {
    const COEFFICIENTS: [f64; 10] = [
        0.170_872_77,
        -0.822_152_23,
        1.488_515_87,
        -1.135_203_98,
        0.278_868_07,
        -0.186_288_06,
        0.096_784_18,
        0.374_091_96,
        1.000_023_68,
        -1.265_512_23,
    ];
    let t = 1.0 / (1.0 + 0.5 * x);
    let exponent = COEFFICIENTS
        .iter()
        .fold(0.0, |sum, coefficient| sum * t + coefficient);
    t * (exponent - x * x).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(value: f64, expected: f64) {
        assert!((value - expected).abs() < 1e-4, "{value}, not {expected}");
    }

    /// Values of the standard normal distribution's two tails.
    #[test]
    fn the_tails_are_those_of_the_normal_distribution() {
        for (z, p) in [
            (0.0, 1.0),
            (1.0, 0.317_31),
            (1.959_964, 0.05),
            (2.575_829, 0.01),
        ] {
            close(complementary_error(z / std::f64::consts::SQRT_2), p);
        }
    }

    /// By hand: U = 0 of 3 and 4, mean 6, variance 8.
    #[test]
    fn lists_that_do_not_overlap_are_told_apart() {
        close(
            mann_whitney(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0, 7.0]),
            0.051_83,
        );
        let (early, late): (Vec<f64>, Vec<f64>) = (
            (0..30).map(f64::from).collect(),
            (30..60).map(f64::from).collect(),
        );
        assert!(mann_whitney(&early, &late) < 1e-9);
        assert!((mann_whitney(&early, &late) - mann_whitney(&late, &early)).abs() < 1e-12);
    }

    /// By hand: ranks 1.5, 1.5, 4, 4, 4, 6; U = 3.5, mean 4.5, ties 6 + 24, variance 9/12 * (7 - 30/30) = 4.5.
    #[test]
    fn equal_values_share_their_rank() {
        close(mann_whitney(&[1.0, 2.0, 2.0], &[1.0, 2.0, 3.0]), 0.813_66);
    }

    #[test]
    fn lists_of_one_source_are_not_told_apart() {
        let one: Vec<f64> = (0..200)
            .map(|number| f64::from(number * 37 % 101))
            .collect();
        let other: Vec<f64> = (0..200)
            .map(|number| f64::from(number * 53 % 101))
            .collect();
        assert!(mann_whitney(&one, &other) > 0.5);
        assert!((mann_whitney(&[1.0; 20], &[1.0; 20]) - 1.0).abs() < 1e-12);
        assert!(mann_whitney(&[], &[1.0]).is_nan());
    }
}
