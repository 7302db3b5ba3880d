//! LoRA adapters (arXiv 2106.09685) over a model whose weights stay as they are.

use std::mem::ManuallyDrop;
use std::path::Path;
use std::sync::Arc;

use llama_cpp_2::gguf::GgufContext;
use llama_cpp_2::model::{LlamaLoraAdapter, LlamaModel};

use super::bank::{Bank, BankSettings};
use super::model::{Model, check_file};
use super::urgency::Urgency;
use crate::config::adapter_content;
use crate::types::Adapter;

/// An adapter's matrices in memory.
pub(super) struct Loaded(LlamaLoraAdapter);

/// A context of its own for one adapter, over the same weights.
///
/// # Errors
/// One line that says what is wrong with the file, or that there is no memory.
pub(super) fn load<'a>(
    model: &'a Model,
    adapter: &Arc<Adapter>,
    settings: BankSettings,
    urgency: &Arc<Urgency>,
) -> Result<Bank<'a>, String> {
    check_file(&adapter.path)?;
    if adapter_content(&adapter.path) != adapter.content {
        let path = adapter.path.display();
        return Err(format!(
            "{path}: it is another file than when the config was read"
        ));
    }
    check_kinds(&adapter.path)?;
    let loaded = alias(&model.weights)
        .lora_adapter_init(&adapter.path)
        .map_err(|error| format!("{}: {error}", adapter.path.display()))?;
    let mut bank = Bank::new(model, settings, urgency)?;
    bank.adapt(adapter, Loaded(loaded))?;
    tracing::info!(adapter = %adapter.path.display(), scale = adapter.scale, "adapter loaded");
    Ok(bank)
}

/// llama.cpp reads these keys without a look at what kind their values are, and aborts on another.
fn check_kinds(path: &Path) -> Result<(), String> {
    let failed = |what: &str| format!("{}: {what}", path.display());
    let file = GgufContext::from_file(path).ok_or_else(|| failed("it can't be read as GGUF"))?;
    let text = llama_cpp_sys_2::GGUF_TYPE_STRING;
    let number = llama_cpp_sys_2::GGUF_TYPE_FLOAT32;
    for (key, kind) in [
        ("general.type", text),
        ("general.architecture", text),
        ("adapter.type", text),
        ("adapter.lora.alpha", number),
    ] {
        let index = file.find_key(key);
        if index < 0 {
            return Err(failed(&format!("it is no LoRA adapter: it has no {key}")));
        }
        if file.kv_type(index) != kind {
            return Err(failed(&format!("its {key} is of another kind")));
        }
    }
    Ok(())
}

/// llama-cpp-2 wants the model for itself to load an adapter, though llama.cpp only adds it to the model's
/// list, which nobody else reads.
#[expect(unsafe_code, reason = "llama-cpp-2 loads adapters through &mut alone")]
fn alias(model: &LlamaModel) -> ManuallyDrop<LlamaModel> {
    // SAFETY: a handle is one pointer, and the copy is never dropped. It is used on the engine's thread alone,
    // which is the one that computes; what other threads read of the model (its vocabulary) isn't changed.
    ManuallyDrop::new(unsafe { std::ptr::read(model) })
}

impl Loaded {
    pub(super) fn handle(&mut self) -> &mut LlamaLoraAdapter {
        &mut self.0
    }
}

impl Drop for Loaded {
    /// llama-cpp-2 would keep it for as long as the model.
    #[expect(
        unsafe_code,
        reason = "llama-cpp-2 does not wrap llama_adapter_lora_free"
    )]
    fn drop(&mut self) {
        let handle: *const LlamaLoraAdapter = &raw const self.0;
        // SAFETY: the type is a transparent wrapper of one pointer, which llama_adapter_lora_init gave. The
        // context that used it is gone: a bank drops it first. The model, which lists it, outlives the bank.
        unsafe {
            let adapter = handle
                .cast::<*mut llama_cpp_sys_2::llama_adapter_lora>()
                .read();
            llama_cpp_sys_2::llama_adapter_lora_free(adapter);
        }
    }
}
