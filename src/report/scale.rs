//! Axes: from values to places, round numbers along them, and numbers in words.

/// The number of intervals between ticks to aim at.
const INTERVALS: f64 = 4.0;

/// A line of values from `low` to `high`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Axis {
    /// The first value.
    pub low: f64,
    /// The last, larger.
    pub high: f64,
    place: (f64, f64),
    /// Distance of two ticks; without, the axis is logarithmic.
    step: Option<f64>,
}

impl Axis {
    /// From `low` to `high` at `place`, neither rounded.
    pub fn exact(low: f64, high: f64, place: (f64, f64)) -> Self {
        let (low, high) = apart(low, high);
        Self {
            low,
            high,
            place,
            step: Some(nice((high - low) / INTERVALS)),
        }
    }

    /// From the tick below `low` to the one above `high`.
    pub fn round(low: f64, high: f64, place: (f64, f64)) -> Self {
        let (low, high) = apart(low, high);
        let step = nice((high - low) / INTERVALS);
        // A value on a tick but for its rounding needs no other tick.
        let (below, above) = (low / step + 1e-9, high / step - 1e-9);
        Self {
            low: below.floor() * step,
            high: above.ceil() * step,
            place,
            step: Some(step),
        }
    }

    /// A logarithmic axis over positive values.
    pub fn logarithmic(low: f64, high: f64, place: (f64, f64)) -> Self {
        let mantissa = |x: f64| x / 10f64.powf(x.log10().floor());
        let start = [5.0, 2.0, 1.0];
        let below = start.into_iter().find(|m| *m <= mantissa(low) + 1e-9);
        let end = [1.0, 2.0, 5.0, 10.0];
        let above = end.into_iter().find(|m| *m >= mantissa(high) - 1e-9);
        let decade = |x: f64| 10f64.powf(x.log10().floor());
        Self {
            low: below.unwrap_or(1.0) * decade(low),
            high: above.unwrap_or(10.0) * decade(high),
            place,
            step: None,
        }
    }

    /// Where `value` is.
    pub fn at(&self, value: f64) -> f64 {
        let share = match self.step {
            None => (value / self.low).ln() / (self.high / self.low).ln(),
            Some(_) => (value - self.low) / (self.high - self.low),
        };
        self.place.0 + share * (self.place.1 - self.place.0)
    }

    /// Round values along it, and what they are called after multiplication with `factor`.
    pub fn ticks(&self, factor: f64) -> Vec<(f64, String)> {
        let Some(step) = self.step else {
            let decades = (self.high / self.low).log10();
            let mantissas: &[f64] = if decades < 2.01 {
                &[1.0, 2.0, 5.0]
            } else {
                &[1.0]
            };
            let every = (decades / 5.0).ceil().max(1.0) as i32;
            let (from, to) = (
                self.low.log10().floor() as i32,
                self.high.log10().ceil() as i32,
            );
            return (from..=to)
                .filter(|e| e.rem_euclid(every) == 0)
                .flat_map(|e| mantissas.iter().map(move |m| m * 10f64.powi(e)))
                .filter(|v| (self.low * 0.999..self.high * 1.001).contains(v))
                .map(|v| (v, number(v * factor)))
                .collect();
        };
        let (first, last) = (
            (self.low / step - 1e-9).ceil() as i64,
            (self.high / step + 1e-9).floor() as i64,
        );
        let values = (first..=last).map(|i| i as f64 * step);
        let largest = self.low.abs().max(self.high.abs()) * factor;
        values
            .map(|v| (v, tick(v * factor, step * factor, largest)))
            .collect()
    }
}

/// Two values that are some way apart.
fn apart(low: f64, high: f64) -> (f64, f64) {
    if high > low {
        return (low, high);
    }
    let room = if low == 0.0 { 1.0 } else { 0.1 * low.abs() };
    (low - if low == 0.0 { 0.0 } else { room }, low + room)
}

/// The smallest of 1, 2, 2.5, 5 times a power of ten that is at least about `step`.
fn nice(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let times = [1.0, 2.0, 2.5, 5.0, 10.0];
    let fits = times.into_iter().find(|t| t * power >= step * 0.99);
    fits.unwrap_or(10.0) * power
}

/// A tick's value with the digits that its axis needs.
fn tick(value: f64, step: f64, largest: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    if largest >= 1e4 {
        let (unit, letter) = if largest >= 1e6 {
            (1e6, "M")
        } else {
            (1e3, "k")
        };
        return format!("{}{letter}", fixed(value / unit, decimals(step / unit)));
    }
    if largest < 1e-3 {
        return number(value);
    }
    fixed(value, decimals(step))
}

/// Decimals that tell multiples of `step` apart.
fn decimals(step: f64) -> usize {
    (0..9)
        .find(|&d| {
            let scaled = step * 10f64.powi(d as i32);
            (scaled - scaled.round()).abs() < 1e-6 * scaled
        })
        .unwrap_or(9)
}

fn fixed(value: f64, decimals: usize) -> String {
    format!("{value:.decimals$}").replace('-', "−")
}

/// A number in three digits: `0.123`, `12.3`, `1 230`, `12.3k`, `1.23M`, `1.2×10⁻⁴`. Zeros that end a
/// fraction are left out.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 {
        return "0".into();
    }
    // A rounding that gains a digit is the next size.
    let digits = |x: f64| -> String {
        let whole = x.abs().log10().floor() as i32;
        let decimals = usize::try_from(2 - whole).unwrap_or(0);
        let words = fixed(x, decimals);
        match words.contains('.') {
            true => words
                .trim_end_matches('0')
                .trim_end_matches('.')
                .to_string(),
            false => words,
        }
    };
    if size >= 999_500.0 {
        return format!("{}M", digits(value / 1e6));
    }
    if size >= 9_999.5 {
        return format!("{}k", digits(value / 1e3));
    }
    if size >= 999.5 {
        let words = fixed(value, 0);
        let at = words.len() - 3;
        return format!("{}\u{202f}{}", &words[..at], &words[at..]);
    }
    if size >= 9.995e-4 {
        return digits(value);
    }
    let exponent = size.log10().floor() as i32;
    let mantissa = value / 10f64.powi(exponent);
    let (mantissa, exponent) = match mantissa.abs() >= 9.995 {
        true => (mantissa / 10.0, exponent + 1),
        false => (mantissa, exponent),
    };
    let superscript: String = exponent
        .to_string()
        .chars()
        .map(|c| match c {
            '-' => '⁻',
            '1' => '¹',
            '2' => '²',
            '3' => '³',
            '0' => '⁰',
            c => char::from_u32(c as u32 - '4' as u32 + '⁴' as u32).unwrap_or(c),
        })
        .collect();
    format!("{}×10{superscript}", digits(mantissa))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (value, words) in [
            (0.0, "0"),
            (4.5, "4.5"),
            (4.516, "4.52"),
            (-0.25, "−0.25"),
            (0.0123456, "0.0123"),
            (0.00099951, "0.001"),
            (99.96, "100"),
            (123.4, "123"),
            (999.7, "1\u{202f}000"),
            (1480.2, "1\u{202f}480"),
            (9999.7, "10k"),
            (12_345.0, "12.3k"),
            (999_700.0, "1M"),
            (1_234_567.0, "1.23M"),
            (2.5e-4, "2.5×10⁻⁴"),
            (9.999e-6, "1×10⁻⁵"),
            (-3.21e-17, "−3.21×10⁻¹⁷"),
        ] {
            assert_eq!(number(value), words);
        }
    }

    fn labels(axis: Axis, factor: f64) -> Vec<String> {
        axis.ticks(factor).into_iter().map(|(_, l)| l).collect()
    }

    #[test]
    fn ticks_are_round() {
        let axis = |low, high| Axis::round(low, high, (0.0, 1.0));
        assert_eq!(
            labels(axis(0.0, 0.93), 1.0),
            ["0", "0.25", "0.50", "0.75", "1.00"]
        );
        assert_eq!(
            labels(axis(0.0, 0.38), 100.0),
            ["0", "10", "20", "30", "40"]
        );
        assert_eq!(labels(axis(3.9, 7.2), 1.0), ["3", "4", "5", "6", "7", "8"]);
        assert_eq!(
            labels(axis(0.0, 0.002), 1.0),
            ["0", "0.0005", "0.0010", "0.0015", "0.0020"]
        );
        assert_eq!(labels(axis(0.0, 5e-4), 1.0)[1], "2×10⁻⁴");
        let steps = Axis::exact(0.0, 12_600.0, (0.0, 1.0));
        assert_eq!(labels(steps, 1.0), ["0", "5k", "10k"]);
        assert!((axis(2.0, 2.0).at(2.0) - 0.5).abs() < 1e-9);
        assert_eq!(axis(0.0, 0.0).at(0.0), 0.0);
    }

    #[test]
    fn logarithms() {
        let axis = Axis::logarithmic(0.3, 1500.0, (100.0, 0.0));
        assert_eq!((axis.low, axis.high), (0.2, 2000.0));
        assert_eq!(labels(axis, 1.0), ["1", "10", "100", "1\u{202f}000"]);
        assert!((axis.at(20.0) - 50.0).abs() < 1e-9);
        let narrow = Axis::logarithmic(1.0, 60.0, (0.0, 1.0));
        assert_eq!(
            labels(narrow, 1.0),
            ["1", "2", "5", "10", "20", "50", "100"]
        );
    }
}
