use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Usage;

/// Digits after the point of one currency unit: amounts are counted in 10^-12 of it.
const SCALE: u32 = 12;
const UNIT: i128 = 10_i128.pow(SCALE);
const TOKENS_PER_QUOTE: i128 = 1_000_000;
/// 100,000 units: beside tokens at the highest price it still fits a row's 64 bits.
const MOST_PER_REQUEST: i64 = 100_000_000_000_000_000;

/// An exact amount, in pico-units (10^-12) of the ledger's currency.
///
/// One row fits an `i64` up to 9.2 million units; sums are taken in `i128`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Money(pub i128);

impl Money {
    /// The amount of one ledger row, which is stored in 64 bits.
    ///
    /// An amount beyond them is held at the bound: no price that the config accepts gets there with
    /// 32-bit token counts.
    #[must_use]
    pub fn row(self) -> i64 {
        i64::try_from(self.0).unwrap_or(if self.0 < 0 { i64::MIN } else { i64::MAX })
    }
}

impl Money {
    /// To so many digits after the point, halves away from zero.
    #[must_use]
    pub fn rounded(self, digits: u32) -> Self {
        let step = 10_i128.pow(SCALE.saturating_sub(digits));
        let up = if self.0 < 0 { -step / 2 } else { step / 2 };
        Self((self.0 + up) / step * step)
    }

    /// A plain decimal with so many digits after the point; finer ones are not shown.
    #[must_use]
    pub fn with_digits(self, digits: u32) -> String {
        let step = 10_i128.pow(SCALE.saturating_sub(digits)).unsigned_abs();
        let sign = if self.0 < 0 { "-" } else { "" };
        let whole = self.0.unsigned_abs() / UNIT.unsigned_abs();
        let part = self.0.unsigned_abs() % UNIT.unsigned_abs() / step;
        let width = digits as usize;
        format!("{sign}{whole}.{part:0width$}")
    }
}

impl fmt::Display for Money {
    /// A plain decimal without trailing zeros, and never an exponent.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let whole = self.0.unsigned_abs() / UNIT.unsigned_abs();
        let part = self.0.unsigned_abs() % UNIT.unsigned_abs();
        if part == 0 {
            return write!(f, "{sign}{whole}");
        }
        let digits = format!("{part:012}");
        write!(f, "{sign}{whole}.{}", digits.trim_end_matches('0'))
    }
}

impl std::ops::AddAssign for Money {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

impl std::iter::Sum for Money {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        Self(amounts.map(|amount| amount.0).sum())
    }
}

impl Serialize for Money {
    /// A decimal in quotes: a float would round money.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl FromStr for Money {
    type Err = String;

    /// Reads a plain decimal with at most 12 digits after the point.
    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || {
            Err(format!(
                "{text:?} is no amount: a plain decimal such as \"0.15\" is needed, with at most 12 digits after the point"
            ))
        };
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(part) || part.len() > SCALE as usize || whole.len() > 15 {
            return refuse();
        }
        let Ok(whole) = whole.parse::<i128>() else {
            return refuse();
        };
        let Ok(part) = format!("{part:0<12}").parse::<i128>() else {
            return refuse();
        };
        Ok(Self(whole * UNIT + part))
    }
}

/// What a token costs, in pico-units. Immutable: a ledger row pins the version it was booked with.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Price {
    /// Names this price in the ledger.
    pub version: String,
    /// A prompt token that was computed.
    pub prompt_pico: i64,
    /// A prompt token whose state was reused.
    pub cached_pico: i64,
    /// A generated token.
    pub completion_pico: i64,
    /// An answer, whatever its length.
    pub request_pico: i64,
}

impl Price {
    /// The price of one token, out of the quoted price of a million.
    ///
    /// # Errors
    /// The quote is no decimal, or finer than a whole pico-unit a token.
    pub fn per_token(per_million: &str) -> Result<i64, String> {
        let quote: Money = per_million.parse()?;
        if quote.0 % TOKENS_PER_QUOTE != 0 {
            return Err(format!(
                "{per_million:?} per million tokens is finer than 10^-12 a token: at most 6 digits after the point"
            ));
        }
        // 10^9 units a million tokens: with 32-bit counts of both kinds a row still fits 64 bits.
        i64::try_from(quote.0 / TOKENS_PER_QUOTE)
            .ok()
            .filter(|pico| *pico <= 1_000_000_000)
            .ok_or_else(|| format!("{per_million:?} per million tokens is too much: at most 1000"))
    }

    /// The numbers that a version names: `prompt/cached/completion`, and `/request` where that has one.
    #[must_use]
    pub fn of_version(version: &str) -> Option<Self> {
        let numbers: Vec<i64> = version
            .split('/')
            .map(|number| number.parse().ok())
            .collect::<Option<_>>()?;
        let (tokens, request) = match numbers[..] {
            [prompt, cached, completion] => ([prompt, cached, completion], 0),
            [prompt, cached, completion, request] => ([prompt, cached, completion], request),
            _ => return None,
        };
        Some(Self::named(tokens, request))
    }

    /// A price with these numbers, in pico-units for each prompt token, cached prompt token and generated token,
    /// and for each request. Its version names them, so the same ones are the same version.
    #[must_use]
    pub fn named([prompt_pico, cached_pico, completion_pico]: [i64; 3], request_pico: i64) -> Self {
        Self {
            version: format!("{prompt_pico}/{cached_pico}/{completion_pico}/{request_pico}"),
            prompt_pico,
            cached_pico,
            completion_pico,
            request_pico,
        }
    }

    /// The price of one request, out of its quote.
    ///
    /// # Errors
    /// The quote is no decimal, or too much.
    pub fn per_request(quote: &str) -> Result<i64, String> {
        let quoted: Money = quote.parse()?;
        i64::try_from(quoted.0)
            .ok()
            .filter(|pico| *pico <= MOST_PER_REQUEST)
            .ok_or_else(|| format!("{quote:?} a request is too much: at most 100000"))
    }

    /// What a usage costs. Exact: tokens are whole, and so are prices of a token. Where nothing was used,
    /// nothing is to be paid.
    #[must_use]
    pub fn amount(&self, usage: &Usage) -> Money {
        if usage.total_tokens() == 0 {
            return Money(0);
        }
        let computed = usage.prompt_tokens.saturating_sub(usage.cached_tokens);
        let of = |tokens: u32, pico: i64| i128::from(tokens) * i128::from(pico);
        Money(
            of(computed, self.prompt_pico)
                + of(usage.cached_tokens, self.cached_pico)
                + of(usage.completion_tokens, self.completion_pico)
                + i128::from(self.request_pico),
        )
    }
}

impl Price {
    /// So many percent of it.
    ///
    /// # Errors
    /// That is no whole number of pico-units.
    pub fn percent(&self, percent: u8) -> Result<Self, String> {
        let part = |pico: i64| {
            let all = i128::from(pico) * i128::from(percent);
            let part = (all % 100 == 0).then(|| i64::try_from(all / 100).ok());
            part.flatten().ok_or_else(|| {
                format!("{percent} percent of {pico} pico-units is no whole number of them")
            })
        };
        let tokens = [self.prompt_pico, self.cached_pico, self.completion_pico];
        let [prompt, cached, completion] = tokens.map(part);
        let tokens = [prompt?, cached?, completion?];
        Ok(Self::named(tokens, part(self.request_pico)?))
    }
}

/// What a model costs from some time on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tariff {
    /// When it begins to hold.
    pub from: Timestamp,
    /// What others pay.
    pub price: Price,
    /// What requests of the batch class pay.
    pub batch: Price,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_amount_reads_back_as_it_was_written(pico in 0_i128..10_i128.pow(26)) {
            let money = Money(pico);
            prop_assert_eq!(money.to_string().parse::<Money>().unwrap(), money);
        }

        #[test]
        fn a_row_at_the_highest_price_fits_64_bits(prompt: u32, completion: u32) {
            let top = Price::per_token("1000").unwrap();
            let request_pico = Price::per_request("100000").unwrap();
            let price = Price { prompt_pico: top, completion_pico: top, request_pico, ..Price::default() };
            let usage = Usage { prompt_tokens: prompt, completion_tokens: completion, cached_tokens: 0, reasoning_tokens: 0 };
            let amount = price.amount(&usage);
            prop_assert_eq!(i128::from(amount.row()), amount.0);
        }
    }

    #[test]
    fn a_quote_per_million_is_whole_pico_units_a_token() {
        assert_eq!(Price::per_token("0.15"), Ok(150_000));
        assert_eq!(Price::per_token("0.000001"), Ok(1));
        assert_eq!(Price::per_token("0"), Ok(0));
        for bad in [
            "0.0000001",
            "-1",
            "1e3",
            "",
            ".5",
            "1.",
            "1001",
            "1,5",
            "NaN",
        ] {
            assert!(Price::per_token(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cached_tokens_have_their_own_price() {
        let price = Price {
            version: "v".into(),
            prompt_pico: 10,
            cached_pico: 1,
            completion_pico: 100,
            request_pico: 5,
        };
        let usage = Usage {
            prompt_tokens: 7,
            cached_tokens: 3,
            completion_tokens: 2,
            reasoning_tokens: 0,
        };
        assert_eq!(price.amount(&usage), Money(4 * 10 + 3 + 200 + 5));
        assert_eq!(price.amount(&Usage::default()), Money(0));
    }

    #[test]
    fn halves_are_rounded_away_from_zero() {
        for (pico, cents) in [
            (4_999_999_999, "0.00"),
            (5_000_000_000, "0.01"),
            (-5_000_000_000, "-0.01"),
            (1_994_999_999_999, "1.99"),
            (1_995_000_000_000, "2.00"),
        ] {
            assert_eq!(Money(pico).rounded(2).with_digits(2), cents);
        }
    }

    #[test]
    fn amounts_are_plain_decimals() {
        assert_eq!(Money(0).to_string(), "0");
        assert_eq!(Money(150_000).to_string(), "0.00000015");
        assert_eq!(Money(-2_500_000_000_000).to_string(), "-2.5");
    }
}
