//! Limits that several replicas share: each holds a slice, uses it up on its own, and asks for more.
//!
//! What a replica holds is never more than what the store says it does, so that all of them together keep to the
//! limit. It asks for a little more than it needs, and gives back what it doesn't use.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Bound, Limiter, Meter, Refused, Request, Reservation, Unit, amount, find};
use crate::types::{Membership, Replica, SliceId, SliceWish, Spender, StoreError};

/// So many requests like this one are asked for beforehand.
const SPARE: i128 = 16;
/// How often what isn't used is given back.
const TIDY: Duration = Duration::from_millis(500);

/// A name for the limit that all replicas give it.
pub(super) fn id(spender: &Spender, meter: Meter, window_ms: i64) -> SliceId {
    let model = spender.model.as_deref().unwrap_or_default();
    let (scope, limit) = (spender.scope.as_str(), meter.as_str());
    SliceId {
        bucket: format!("{scope}/{}/{model}/{limit}", spender.id),
        window_ms,
    }
}

impl Limiter {
    /// Most requests find what they need in the slices that are here. The others wait for each other, so that what
    /// one has asked for isn't taken by the next.
    pub(super) async fn take_of_slices(
        &self,
        request: &Request<'_>,
        bounds: Vec<Bound>,
        membership: &Membership,
    ) -> Result<Reservation, Refused> {
        let replica = membership.now();
        if self.short(request, &bounds, &replica).is_empty() {
            return Ok(self.take(request, bounds)?);
        }
        let _alone = self.asking.lock().await;
        for wish in self.short(request, &bounds, &replica) {
            self.ask(&replica, wish).await?;
        }
        Ok(self.take(request, bounds)?)
    }

    /// The slices that don't cover the request.
    fn short(&self, request: &Request<'_>, bounds: &[Bound], replica: &Replica) -> Vec<Wish> {
        let now = self.shared.now();
        let mut buckets = self.shared.lock();
        let mut wishes = Vec::new();
        for bound in bounds {
            let Some(bucket) = find(&mut buckets, &bound.spender, bound.meter) else {
                continue;
            };
            let need = amount(bound, request.price, request.need);
            // What is only to be warned of is looked at as often as a slice of it is asked for.
            let limit = bound.limit.unwrap_or(i64::MAX.into());
            if !bucket.covers(now, &replica.id, need) {
                let window = bucket.begins().map_or(0, |begins| begins.as_millisecond());
                wishes.push(Wish {
                    meter: bound.meter,
                    settled: bucket.settled(),
                    wish: SliceWish {
                        slice: id(&bound.spender, bound.meter, window),
                        spender: bound.spender.clone(),
                        counted: bound.meter.counted(),
                        limit,
                        held: bucket.taken(now),
                        need,
                        spare: need * SPARE,
                    },
                });
            }
        }
        wishes
    }

    async fn ask(&self, replica: &Replica, wish: Wish) -> Result<(), StoreError> {
        let slice = self.ledger.slice(&replica.id, &wish.wish).await?;
        let mut buckets = self.shared.lock();
        if let Some(bucket) = find(&mut buckets, &wish.wish.spender, wish.meter) {
            bucket.give(&replica.id, slice, wish.settled);
        }
        Ok(())
    }

    /// Gives back what isn't used, until it is told to stop. A replica that is alone has nobody to give it to.
    pub async fn tidy(self: Arc<Self>, stop: CancellationToken) {
        let Some(membership) = &self.membership else {
            return;
        };
        while stop
            .run_until_cancelled(tokio::time::sleep(TIDY))
            .await
            .is_some()
        {
            if let Err(error) = self.give_back(membership).await {
                tracing::warn!(%error, "unused slices of limits could not be given back");
            }
        }
    }

    async fn give_back(&self, membership: &Membership) -> Result<(), StoreError> {
        let replica = membership.now();
        let unused = self.unused(&replica);
        if unused.is_empty() {
            return Ok(());
        }
        let _alone = self.asking.lock().await;
        for wish in self.unused(&replica) {
            self.ask(&replica, wish).await?;
        }
        Ok(())
    }

    /// Slices of which more is here than was asked for since the last time. Each keeps half of what is spare, so that
    /// one in use isn't asked for again and again.
    fn unused(&self, replica: &Replica) -> Vec<Wish> {
        let now = self.shared.now();
        let mut buckets = self.shared.lock();
        let mut wishes = Vec::new();
        for (spender, of) in buckets.iter_mut() {
            for (meter, bucket) in of.iter_mut() {
                let Some(slice) = bucket.slice_of(&replica.id) else {
                    continue;
                };
                let held = bucket.taken(now);
                let spare = slice.granted - held;
                let least = if meter.unit() == Unit::Requests {
                    0
                } else {
                    16
                };
                if spare > least && !bucket.is_over(now) {
                    let window = bucket.begins().map_or(0, |begins| begins.as_millisecond());
                    wishes.push(Wish {
                        meter: *meter,
                        settled: bucket.settled(),
                        wish: SliceWish {
                            slice: id(spender, *meter, window),
                            spender: spender.clone(),
                            counted: meter.counted(),
                            // It gets no more than it has, whatever the limit is by now.
                            limit: i64::MAX.into(),
                            held: held + spare / 2,
                            need: 0,
                            spare: 0,
                        },
                    });
                }
            }
        }
        wishes
    }
}

/// A wish with what it takes to find its bucket again.
struct Wish {
    meter: Meter,
    settled: i128,
    wish: SliceWish,
}
