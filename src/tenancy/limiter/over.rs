use super::{Over, Rate, Standing, Unit, number, seconds};
use crate::types::Money;

impl Over {
    /// What its client is told of the limit, as of those that are not used up.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let mut standing = Standing::default();
        if let Some(place) = standing.place(self.meter) {
            *place = Some(Rate {
                limit: number(self.limit),
                remaining: number(self.limit - self.taken),
                reset: self.retry_after.unwrap_or_default(),
            });
        }
        standing
    }

    pub(super) fn words(&self) -> String {
        let show = |amount: i128| match self.meter.unit() {
            Unit::Money => Money(amount).to_string(),
            Unit::Requests | Unit::Tokens => amount.to_string(),
        };
        let of = self
            .model
            .as_ref()
            .map_or_else(String::new, |model| format!(" for the model {model}"));
        let when = match self.retry_after {
            Some(wait) => format!("Please try again in {}.", seconds(wait)),
            None => "The request alone is more than the limit.".into(),
        };
        format!(
            "the {}'s limit {}{of} is reached: limit {}, used {}, requested {}. {when}",
            self.scope.as_str(),
            self.meter.as_str(),
            show(self.limit),
            show(self.taken),
            show(self.asked),
        )
    }
}
