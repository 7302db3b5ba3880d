use std::rc::Rc;
use std::sync::Arc;

use llama_cpp_2::context::session::SeqState;
use llama_cpp_2::token::LlamaToken;

use super::sequence::Common;
use crate::types::{Adapter, ProjectId};

/// A reused prefix ends at a multiple of this. What is computed after it is a smaller batch than the whole prompt
/// would be, so its logits are the same up to rounding alone.
const CHUNK: usize = 16;
/// A state of fewer tokens is computed as fast as it is found.
const SMALLEST: usize = 64;

/// Whom a state may serve whole: nobody can tell from an answer's time or usage what another tenant sent.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scope {
    tenant: ProjectId,
    adapter: Option<Arc<Adapter>>,
}

impl Scope {
    pub(super) fn of(common: &Common) -> Self {
        Self {
            tenant: common.tenant().clone(),
            adapter: common.adapter().cloned(),
        }
    }
}

/// States of sequences that have ended, in host memory; the ones not used for the longest time make way.
pub(super) struct PrefixCache {
    entries: Vec<Entry>,
    bytes: usize,
    limit: usize,
    clock: u64,
    /// Tokens that a state may have so that it can be cut at any of them ([`super::window`]).
    cuttable: usize,
}

struct Entry {
    scope: Scope,
    tokens: Vec<LlamaToken>,
    /// So many of them, the first ones, are the vertical's own words, and serve its other tenants as well.
    shared: usize,
    state: Rc<SeqState>,
    used: u64,
}

/// A state that begins as a prompt does.
pub(super) struct Hit {
    pub(super) state: Rc<SeqState>,
    /// Tokens of it that the prompt begins with, and that may be reused.
    pub(super) tokens: usize,
}

impl PrefixCache {
    pub(super) fn new(limit_bytes: usize, cuttable: usize) -> Self {
        Self {
            entries: Vec::new(),
            bytes: 0,
            limit: limit_bytes,
            clock: 0,
            cuttable,
        }
    }

    pub(super) fn is_on(&self) -> bool {
        self.limit > 0
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The state that saves most of a prompt, of which `shared` tokens are the vertical's. At least the prompt's last
    /// token is left to be computed, for its logits.
    pub(super) fn find(
        &mut self,
        scope: &Scope,
        prompt: &[LlamaToken],
        shared: usize,
    ) -> Option<Hit> {
        let most = prompt.len().checked_sub(1)?;
        let cuttable = self.cuttable;
        let (saved, entry) = self
            .entries
            .iter_mut()
            .filter(|entry| entry.scope.adapter == scope.adapter)
            .map(|entry| {
                let most = if entry.scope == *scope {
                    most
                } else {
                    most.min(shared).min(entry.shared)
                };
                (reusable(&entry.tokens, &prompt[..most], cuttable), entry)
            })
            .max_by_key(|(saved, entry)| (*saved, entry.scope == *scope))?;
        if saved == 0 {
            return None;
        }
        self.clock += 1;
        entry.used = self.clock;
        Some(Hit {
            state: Rc::clone(&entry.state),
            tokens: saved,
        })
    }

    /// Whether a state of these tokens, of which `shared` are the vertical's, would be worth its memory.
    pub(super) fn wants(&self, scope: &Scope, tokens: &[LlamaToken], shared: usize) -> bool {
        let known = |entry: &Entry| {
            entry.scope == *scope
                && entry.shared >= shared
                && spares(&entry.tokens, tokens, self.cuttable)
        };
        self.is_on() && tokens.len() >= SMALLEST && !self.entries.iter().any(known)
    }

    /// Keeps a state, of whose tokens `shared` are the vertical's. Those that it goes on from go.
    pub(super) fn keep(
        &mut self,
        scope: Scope,
        tokens: Vec<LlamaToken>,
        shared: usize,
        state: Rc<SeqState>,
    ) {
        let size = state.byte_len();
        if size > self.limit {
            return;
        }
        if tokens.len() <= self.cuttable {
            self.drop_where(|entry| {
                entry.scope == scope && entry.shared <= shared && tokens.starts_with(&entry.tokens)
            });
        }
        while self.bytes + size > self.limit {
            let Some(oldest) = self.entries.iter().map(|entry| entry.used).min() else {
                break;
            };
            self.drop_where(|entry| entry.used == oldest);
        }
        self.clock += 1;
        self.bytes += size;
        self.entries.push(Entry {
            scope,
            tokens,
            shared,
            state,
            used: self.clock,
        });
    }

    fn drop_where(&mut self, goes: impl Fn(&Entry) -> bool) {
        self.entries.retain(|entry| !goes(entry));
        self.bytes = self
            .entries
            .iter()
            .map(|entry| entry.state.byte_len())
            .sum();
    }
}

/// Tokens at the beginning of `held` that serve `prompt`, as they are reused.
fn reusable(held: &[LlamaToken], prompt: &[LlamaToken], cuttable: usize) -> usize {
    let serving = serving(held, prompt, cuttable);
    if held.len() > cuttable {
        return serving;
    }
    serving / CHUNK * CHUNK
}

/// Whether a state of `held` makes one of `tokens` not worth its memory.
fn spares(held: &[LlamaToken], tokens: &[LlamaToken], cuttable: usize) -> bool {
    serving(held, tokens, cuttable) + CHUNK > tokens.len()
}

/// Tokens at the beginning of `held` that could serve `prompt`.
fn serving(held: &[LlamaToken], prompt: &[LlamaToken], cuttable: usize) -> usize {
    let same = common(held, prompt);
    if held.len() <= cuttable || same == held.len() {
        same
    } else {
        0
    }
}

/// Tokens of a prompt that are shared, where `own` is what the vertical says without anything of a client's: all but the
/// last of them, or none. What stands around their end hangs on what the client says there, and nobody is to learn of that.
pub(super) fn shared(own: &[LlamaToken], prompt: &[LlamaToken]) -> usize {
    let shared = own.len().saturating_sub(2 * CHUNK) / CHUNK * CHUNK;
    if common(own, prompt) < shared {
        0
    } else {
        shared
    }
}

fn common(a: &[LlamaToken], b: &[LlamaToken]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(ids: impl Iterator<Item = i32>) -> Vec<LlamaToken> {
        ids.map(LlamaToken::new).collect()
    }

    const ALWAYS: usize = usize::MAX;

    #[test]
    fn a_prefix_is_reused_up_to_a_chunks_end() {
        let held = tokens(0..100);
        assert_eq!(reusable(&held, &tokens(0..90), ALWAYS), 80);
        assert_eq!(reusable(&held, &tokens(0..15), ALWAYS), 0);
        assert_eq!(reusable(&held, &tokens(0..1000), ALWAYS), 96);
        assert_eq!(reusable(&held, &tokens(5..100), ALWAYS), 0);
    }

    #[test]
    fn of_a_verticals_words_all_but_the_end_is_shared_or_nothing() {
        let own = tokens(0..100);
        // Whatever comes behind them.
        for end in 68..120 {
            assert_eq!(shared(&own, &tokens(0..end)), 64, "{end}");
        }
        assert_eq!(shared(&own, &tokens(0..63)), 0);
        assert_eq!(shared(&own, &tokens(1..101)), 0);
        assert_eq!(shared(&tokens(0..40), &tokens(0..100)), 0);
    }

    #[test]
    fn what_can_not_be_cut_is_reused_whole_or_not_at_all() {
        let held = tokens(0..100);
        for cuttable in [0, 99] {
            assert_eq!(reusable(&held, &tokens(0..100), cuttable), 100);
            assert_eq!(reusable(&held, &tokens(0..101), cuttable), 100);
            assert_eq!(reusable(&held, &tokens(0..99), cuttable), 0);
        }
        assert_eq!(reusable(&held, &tokens(0..99), 100), 96);
    }

    #[test]
    fn a_state_is_kept_unless_one_that_is_there_serves_as_well() {
        let spared = |held: i32, prompt: i32, cuttable| {
            spares(&tokens(0..held), &tokens(0..prompt), cuttable)
        };
        assert!(spared(200, 100, ALWAYS));
        assert!(spared(90, 100, ALWAYS));
        assert!(!spared(200, 300, ALWAYS));
        // One that is too long to be cut serves nothing shorter than itself.
        assert!(!spared(200, 100, 199));
        assert!(spared(90, 100, 0));
    }
}
