use jiff::Timestamp;
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use crate::types::{Price, Tariff};

/// What a model costs, now and later: one table of quotes, or a list of them in the order of time.
#[derive(Debug, Clone, Default)]
pub(super) struct Prices(Vec<Quotes>);

/// Quotes per million tokens, as plain decimals in quotes: a float would round money.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Quotes {
    /// From when on they hold; the first ones always have.
    from: Option<Timestamp>,
    prompt: Option<String>,
    cached_prompt: Option<String>,
    completion: Option<String>,
    /// A quote for each answer, whatever its length.
    request: Option<String>,
    /// How much of all this requests of the batch class pay.
    batch_percent: Option<u8>,
}

impl<'de> Deserialize<'de> for Prices {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;

        // By hand: an untagged enum would not say which key is wrong.
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Prices;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a table of quotes, or a list of them")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Prices, A::Error> {
                let quotes = Quotes::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Prices(vec![quotes]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Prices, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(Prices)
            }
        }

        deserializer.deserialize_any(OneOrMany)
    }
}

impl Prices {
    /// In the order of time; nothing costs nothing.
    pub(super) fn read(&self) -> Result<Vec<Tariff>, String> {
        let mut prices = Vec::with_capacity(self.0.len());
        let mut last = None;
        for (index, quotes) in self.0.iter().enumerate() {
            let from = match (index, quotes.from) {
                (0, None) => Timestamp::MIN,
                (0, Some(_)) => {
                    return Err("has a `from` in its first quotes, which always held".into());
                }
                (_, None) => return Err("has no `from` in later quotes".into()),
                (_, Some(from)) => from,
            };
            if last.is_some_and(|last| last >= from) {
                return Err(format!(
                    "is out of order: {from} is not after the one before"
                ));
            }
            last = Some(from);
            let price = quotes.read()?;
            let batch = quotes.batch(&price)?;
            prices.push(Tariff { from, price, batch });
        }
        Ok(prices)
    }
}

impl Quotes {
    /// The version names the numbers, so the same ones are the same version.
    fn read(&self) -> Result<Price, String> {
        let quote = |text: &Option<String>| text.as_deref().map(Price::per_token).transpose();
        let prompt_pico = quote(&self.prompt)?.unwrap_or(0);
        let cached_pico = quote(&self.cached_prompt)?.unwrap_or(prompt_pico);
        let completion_pico = quote(&self.completion)?.unwrap_or(0);
        let request = self.request.as_deref().map(Price::per_request);
        let request_pico = request.transpose()?.unwrap_or(0);
        Ok(Price::named(
            [prompt_pico, cached_pico, completion_pico],
            request_pico,
        ))
    }

    fn batch(&self, price: &Price) -> Result<Price, String> {
        match self.batch_percent {
            None => Ok(price.clone()),
            Some(percent) if percent > 100 => Err("has a batch_percent above 100".into()),
            Some(percent) => price.percent(percent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Table {
        price: Prices,
    }

    fn read(text: &str) -> Result<Vec<Tariff>, String> {
        let table: Result<Table, _> = figment::Figment::from(
            <figment::providers::Toml as figment::providers::Format>::string(text),
        )
        .extract();
        table.map_err(|error| error.to_string())?.price.read()
    }

    #[test]
    fn one_table_always_holds_and_a_list_in_the_order_of_time() {
        let one = read("price = { prompt = \"1\" }").unwrap();
        assert_eq!(
            (one.len(), one[0].from, one[0].price.prompt_pico),
            (1, Timestamp::MIN, 1_000_000)
        );
        let two = read(
            "price = [{ prompt = \"1\" }, { from = \"2027-01-01T00:00:00Z\", prompt = \"2\" }]",
        )
        .unwrap();
        assert_eq!(two[1].from.as_second(), 1_798_761_600);
        assert_eq!(two[1].price.prompt_pico, 2_000_000);
    }

    #[test]
    fn the_batch_class_pays_its_part_of_everything() {
        let text = "price = { prompt = \"1\", cached_prompt = \"0.5\", completion = \"3\", request = \"2\", batch_percent = 50 }";
        let tariff = read(text).unwrap().remove(0);
        assert_eq!(tariff.batch.version, "500000/250000/1500000/1000000000000");
        let same = read("price = { prompt = \"1\" }").unwrap().remove(0);
        assert_eq!(same.price, same.batch);
    }

    #[test]
    fn what_is_wrong_with_a_price_is_said() {
        let later = "{ from = \"2027-01-01T00:00:00Z\" }";
        for (text, word) in [
            ("price = { promt = \"1\" }".to_owned(), "promt"),
            ("price = [{ promt = \"1\" }]".to_owned(), "promt"),
            ("price = \"1\"".to_owned(), "a table of quotes"),
            ("price = { batch_percent = 101 }".to_owned(), "above 100"),
            (
                "price = { prompt = \"0.000001\", batch_percent = 50 }".to_owned(),
                "no whole number",
            ),
            (format!("price = [{later}]"), "first"),
            ("price = [{}, {}]".to_owned(), "no `from`"),
            (format!("price = [{{}}, {later}, {later}]"), "order"),
        ] {
            let refusal = read(&text).unwrap_err();
            assert!(refusal.contains(word), "{text}: {refusal}");
        }
    }
}
