//! What is said about quantised weights that are 8-bit floats with scales.

use serde_json::Value;

use crate::error::{Error, Result};

/// What the settings of a quantisation say about the weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Quantisation {
    /// The method's name, `fp8` for example.
    pub method: String,
    /// Rows and columns of the blocks that have one scale each, where there are such.
    pub blocks: Vec<[usize; 2]>,
}

/// The methods whose weights may be 8-bit floats with scales that we know.
const METHODS: [&str; 4] = ["fp8", "fbgemm_fp8", "compressed-tensors", "modelopt"];

impl Quantisation {
    /// Reads settings such as the `quantization_config` of a `config.json`; `place` is their file
    /// and field, for messages.
    ///
    /// # Errors
    ///
    /// Weights that are not 8-bit floats, fields that are not as expected.
    pub fn read(settings: &Value, place: &str) -> Result<Self> {
        let method = settings["quant_method"].as_str().unwrap_or_default();
        let refused = |what: String| {
            Error::input(place, what)
                .remedy("only weights of 8-bit floats can be read; convert the model to bfloat16")
        };
        if !METHODS.contains(&method) {
            let expected = METHODS.join("`, `");
            let what = format!("expected `quant_method` to be `{expected}`, found `{method}`");
            return Err(refused(what));
        }
        let size = |value: &Value| value.as_u64().filter(|size| *size > 0);
        let block = |value: &Value| match value.as_array().map(Vec::as_slice) {
            None if value.is_null() => Ok(None),
            list => {
                let sizes = list.and_then(|list| match list {
                    [rows, columns] => size(rows).zip(size(columns)),
                    _ => None,
                });
                let found = || refused(format!("expected a block of two sizes, found {value}"));
                let (rows, columns) = sizes.ok_or_else(found)?;
                Ok(Some([rows as usize, columns as usize]))
            }
        };
        let mut blocks = Vec::new();
        blocks.extend(block(&settings["weight_block_size"])?);
        if method == "modelopt" && settings["quant_algo"] != "FP8" {
            let algorithm = &settings["quant_algo"];
            return Err(refused(format!("`quant_algo` is {algorithm}, not \"FP8\"")));
        }
        for group in settings["config_groups"].as_object().into_iter().flatten() {
            let weights = &group.1["weights"];
            if weights["type"] != "float" || weights["num_bits"] != 8 {
                let (bits, kind) = (&weights["num_bits"], &weights["type"]);
                return Err(refused(format!(
                    "`{}` has weights of {bits} bits of type {kind}",
                    group.0
                )));
            }
            blocks.extend(block(&weights["block_structure"])?);
            // Groups of columns are blocks of one row.
            blocks.extend(size(&weights["group_size"]).map(|size| [1, size as usize]));
        }
        Ok(Self {
            method: method.to_owned(),
            blocks,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn quantisation(value: Value) -> Result<Quantisation> {
        Quantisation::read(&value, "x/config.json: field `quantization_config`")
    }

    #[test]
    fn settings_of_real_checkpoints_are_read() {
        let blocks = |value| quantisation(value).unwrap().blocks;
        let deepseek = json!({"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
            "weight_block_size": [128, 128]});
        assert_eq!(blocks(deepseek), [[128, 128]]);
        let fbgemm = json!({"activation_scale_ub": 1200.0, "modules_to_not_convert": ["lm_head"],
            "quant_method": "fbgemm_fp8"});
        assert!(blocks(fbgemm).is_empty());
        let group = |weights: Value| {
            json!({"quant_method": "compressed-tensors", "format": "float-quantized",
                "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}})
        };
        let channel = json!({"num_bits": 8, "type": "float", "strategy": "channel",
            "group_size": null, "block_structure": null, "symmetric": true});
        assert!(blocks(group(channel)).is_empty());
        let block = json!({"num_bits": 8, "type": "float", "strategy": "block",
            "block_structure": [128, 64]});
        assert_eq!(blocks(group(block)), [[128, 64]]);
        let groups = json!({"num_bits": 8, "type": "float", "strategy": "group",
            "group_size": 32});
        assert_eq!(blocks(group(groups)), [[1, 32]]);

        let refused = |value: Value, expected: &str| {
            let error = quantisation(value).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(error.starts_with("x/config.json: field `quantization_config`"));
        };
        refused(json!({"quant_method": "gptq"}), "found `gptq`");
        refused(json!("fp8"), "found ``");
        let int = json!({"num_bits": 4, "type": "int"});
        refused(group(int), "weights of 4 bits of type \"int\"");
        let nvfp4 = json!({"quant_method": "modelopt", "quant_algo": "NVFP4"});
        refused(nvfp4, "`quant_algo` is \"NVFP4\"");
        let block = json!({"quant_method": "fp8", "weight_block_size": [128]});
        refused(block, "a block of two sizes, found [128]");
        let block = json!({"quant_method": "fp8", "weight_block_size": [128, 0]});
        refused(block, "a block of two sizes, found [128,0]");
    }
}
