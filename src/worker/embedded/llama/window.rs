//! What sliding-window attention leaves of a sequence's state.
//!
//! llama.cpp writes of such a layer only the cells that the sequence's next token still sees. A state that is no
//! longer than the window is therefore whole, and may be cut anywhere; of a longer one, what an earlier token
//! would see is missing, and nothing in llama.cpp notices: it attends to what there is.

use llama_cpp_2::model::LlamaModel;

/// Tokens that a state may have so that it can be cut at any of them. Longer ones serve whole or not at all.
pub(super) fn cuttable_tokens(weights: &LlamaModel) -> usize {
    // A recurrent state is of its last token alone.
    if weights.is_recurrent() || weights.is_hybrid() {
        return 0;
    }
    match window(weights) {
        Some(tokens) => tokens,
        // llama.cpp gives no window for some architectures whose files name one.
        None if names_a_window(weights) => 0,
        None => usize::MAX,
    }
}

/// The window that llama.cpp computes with: some architectures have one that their files don't name.
#[expect(unsafe_code, reason = "llama-cpp-2 does not wrap llama_model_n_swa")]
fn window(weights: &LlamaModel) -> Option<usize> {
    let handle: *const LlamaModel = weights;
    // SAFETY: the type is a transparent wrapper of one pointer, which llama.cpp gave when it loaded the model and
    // which lives as long as the reference. The call reads one number of it.
    let tokens = unsafe {
        let model = handle.cast::<*const llama_cpp_sys_2::llama_model>().read();
        llama_cpp_sys_2::llama_model_n_swa(model)
    };
    usize::try_from(tokens).ok().filter(|tokens| *tokens > 0)
}

fn names_a_window(weights: &LlamaModel) -> bool {
    let architecture = weights.meta_val_str("general.architecture");
    let architecture = architecture.unwrap_or_default();
    let key = format!("{architecture}.attention.sliding_window");
    weights.meta_val_str(&key).is_ok()
}
