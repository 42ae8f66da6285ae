//! What kubectl makes of a scalar.
//!
//! kubectl turns YAML into JSON before it sends it, with sigs.k8s.io/yaml, which is go-yaml 2: YAML 1.1 with some of 1.2. So
//! the server never sees `0x1F`, `010` or `yes`, but 31, 8 and true. Read in `goyaml.v2/resolve.go`; measured with kubectl
//! 1.37.2 for every form in the tests below.

use granit_parser::ScalarStyle;

/// A scalar as it is written.
#[derive(Clone, Debug)]
pub(super) struct Scalar {
    pub(super) text: String,
    /// Neither in quotes nor a block.
    plain: bool,
}

/// What a scalar is in the JSON that kubectl sends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Meaning {
    Null,
    Boolean(bool),
    Integer(i128),
    Float(f64),
    Text,
}

impl Scalar {
    pub(super) fn new(text: String, style: ScalarStyle) -> Self {
        Self { text, plain: style == ScalarStyle::Plain }
    }

    pub(super) fn is_null(&self) -> bool {
        self.meaning() == Meaning::Null
    }

    /// Whether it is an integer that every reader of YAML and JSON reads alike.
    pub(super) fn is_plain_decimal(&self) -> bool {
        self.plain && is_decimal(&self.text)
    }

    /// Whether it would be a plain decimal integer but for its quotes.
    pub(super) fn is_quoted_decimal(&self) -> bool {
        !self.plain && is_decimal(&self.text)
    }

    pub(super) fn meaning(&self) -> Meaning {
        if !self.plain {
            return Meaning::Text;
        }
        match self.text.as_str() {
            "" | "~" | "null" | "Null" | "NULL" => Meaning::Null,
            "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
                Meaning::Boolean(true)
            }
            "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
                Meaning::Boolean(false)
            }
            ".nan" | ".NaN" | ".NAN" => Meaning::Float(f64::NAN),
            ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Meaning::Float(f64::INFINITY),
            "-.inf" | "-.Inf" | "-.INF" => Meaning::Float(f64::NEG_INFINITY),
            text if text.starts_with('.') => float(text).map_or(Meaning::Text, Meaning::Float),
            text if text.starts_with(|first: char| first.is_ascii_digit() || "+-".contains(first)) => {
                number(&text.replace('_', ""))
            }
            _ => Meaning::Text,
        }
    }

    /// What kubectl would read, in words.
    pub(super) fn kubectl_reads(&self) -> String {
        match self.meaning() {
            Meaning::Null => "null".into(),
            Meaning::Boolean(value) => format!("the boolean {value}"),
            Meaning::Integer(value) if i64::try_from(value).is_ok() => format!("the number {value}"),
            Meaning::Float(value) if value == 0.0 || (1e-6..1e15).contains(&value.abs()) => {
                format!("the number {value}")
            }
            Meaning::Float(value) if !value.is_finite() => "what JSON cannot hold".into(),
            // It may be rounded, or have an exponent.
            Meaning::Integer(_) | Meaning::Float(_) => "a number".into(),
            Meaning::Text => "text".into(),
        }
    }
}

fn is_decimal(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let leading_zero = text.starts_with('-') || digits.len() > 1;
    !digits.is_empty()
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && !(leading_zero && digits.starts_with('0'))
}

/// A number by the rules of Go's `strconv.ParseInt` with base 0, then of a float; underscores are gone already.
fn number(text: &str) -> Meaning {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = match digits.get(..2).map(str::to_ascii_lowercase).as_deref() {
        Some("0x") => (16, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        Some("0b") => (2, &digits[2..]),
        _ if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return float(text).map_or(Meaning::Text, Meaning::Float);
    }
    // Go has integers of any size; no field has.
    Meaning::Integer(sign * i128::from_str_radix(digits, radix).unwrap_or(i128::MAX))
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?` of a size that a float can hold.
fn float(text: &str) -> Option<f64> {
    let numeric = text.contains(|char: char| char.is_ascii_digit())
        && text.chars().all(|char| char.is_ascii_digit() || "+-.eE".contains(char));
    text.parse().ok().filter(|value: &f64| numeric && value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Scalar {
        Scalar::new(text.into(), ScalarStyle::Plain)
    }

    #[test]
    fn scalars_mean_what_kubectl_1_37_sent() {
        for (text, sent) in [
            ("0x1F", Meaning::Integer(31)),
            ("0X1F", Meaning::Integer(31)),
            ("-0x1F", Meaning::Integer(-31)),
            ("+0x10", Meaning::Integer(16)),
            ("0x_1", Meaning::Integer(1)),
            ("010", Meaning::Integer(8)),
            ("-010", Meaning::Integer(-8)),
            ("0_7", Meaning::Integer(7)),
            ("00", Meaning::Integer(0)),
            ("-0", Meaning::Integer(0)),
            ("0o17", Meaning::Integer(15)),
            ("0O17", Meaning::Integer(15)),
            ("0b1", Meaning::Integer(1)),
            ("0B11", Meaning::Integer(3)),
            ("-0b1", Meaning::Integer(-1)),
            ("+0b1", Meaning::Integer(1)),
            ("1_000", Meaning::Integer(1000)),
            ("1__0", Meaning::Integer(10)),
            ("1_", Meaning::Integer(1)),
            ("+5", Meaning::Integer(5)),
            ("-5", Meaning::Integer(-5)),
            ("08", Meaning::Float(8.0)),
            ("09_1", Meaning::Float(91.0)),
            ("60.0", Meaning::Float(60.0)),
            ("5.", Meaning::Float(5.0)),
            (".5", Meaning::Float(0.5)),
            ("1e2", Meaning::Float(100.0)),
            ("1E2", Meaning::Float(100.0)),
            ("1e+2", Meaning::Float(100.0)),
            ("1e-2", Meaning::Float(0.01)),
            ("1.5e3", Meaning::Float(1500.0)),
            ("~", Meaning::Null),
            ("yes", Meaning::Boolean(true)),
            ("y", Meaning::Boolean(true)),
            ("1:30", Meaning::Text),
            ("2001-01-01", Meaning::Text),
            ("0x", Meaning::Text),
            ("0b2", Meaning::Text),
            ("0x1p4", Meaning::Text),
            ("1e400", Meaning::Text),
            ("_1", Meaning::Text),
        ] {
            assert_eq!(plain(text).meaning(), sent, "{text}");
        }
        assert_eq!(Scalar::new("60".into(), ScalarStyle::DoubleQuoted).meaning(), Meaning::Text);
    }

    #[test]
    fn only_digits_with_an_optional_minus_are_plain_decimal() {
        for text in ["0", "7", "60", "-5", "99999999999999999999"] {
            assert!(plain(text).is_plain_decimal(), "{text}");
        }
        for text in ["", "-", "+5", "-0", "00", "010", "-010", "1_000", "1e2", "60.0", "0x1F", " 1", "٣"] {
            assert!(!plain(text).is_plain_decimal(), "{text}");
        }
    }

    #[test]
    fn the_number_that_kubectl_reads_is_said_only_where_it_is_known() {
        for (text, reads) in [
            ("1e2", "the number 100"),
            ("1e-2", "the number 0.01"),
            ("1e21", "a number"),
            ("0xFFFFFFFFFFFFFFFFFF", "a number"),
            (".inf", "what JSON cannot hold"),
        ] {
            assert_eq!(plain(text).kubectl_reads(), reads, "{text}");
        }
    }
}
