//! Values that are a word or a number.

use candle_core::DType;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Type of the parameters and activations; masters, moments and the loss are f32 in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// 16-bit floats with the exponent of f32. Slower than f32 on a CPU.
    Bf16,
}

impl Precision {
    /// The type in the model.
    pub fn dtype(self) -> DType {
        match self {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
        }
    }
}

/// Padded tokens of a micro batch: a number, or `auto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MicroBatchTokens {
    /// Chosen by the size of the model.
    #[default]
    Auto,
    /// At most so many, except that a longer sample is a micro batch of its own.
    AtMost(usize),
}

impl Serialize for MicroBatchTokens {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            MicroBatchTokens::Auto => serializer.serialize_str("auto"),
            MicroBatchTokens::AtMost(n) => serializer.serialize_u64(*n as u64),
        }
    }
}

impl<'de> Deserialize<'de> for MicroBatchTokens {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AutoOrNumber;
        impl serde::de::Visitor<'_> for AutoOrNumber {
            type Value = MicroBatchTokens;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("`auto` or a number of tokens")
            }

            fn visit_u64<E: serde::de::Error>(self, n: u64) -> Result<Self::Value, E> {
                let n = usize::try_from(n).map_err(E::custom)?;
                Ok(MicroBatchTokens::AtMost(n))
            }

            fn visit_i64<E: serde::de::Error>(self, n: i64) -> Result<Self::Value, E> {
                self.visit_u64(u64::try_from(n).map_err(E::custom)?)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(AutoOrNumber)
    }
}

impl std::str::FromStr for MicroBatchTokens {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let number = text.parse().map(Self::AtMost);
        number.map_err(|_| format!("expected `auto` or a number of tokens, found `{text}`"))
    }
}

/// Whether layers are computed a second time for their gradients instead of keeping what they
/// computed: `true`, `false`, or `auto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checkpointing {
    /// Where the activations of a micro batch would take much memory.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

impl Serialize for Checkpointing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Checkpointing::Auto => serializer.serialize_str("auto"),
            Checkpointing::On => serializer.serialize_bool(true),
            Checkpointing::Off => serializer.serialize_bool(false),
        }
    }
}

impl<'de> Deserialize<'de> for Checkpointing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AutoOrBool;
        impl serde::de::Visitor<'_> for AutoOrBool {
            type Value = Checkpointing;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("`auto`, `true` or `false`")
            }

            fn visit_bool<E: serde::de::Error>(self, on: bool) -> Result<Self::Value, E> {
                Ok(match on {
                    true => Checkpointing::On,
                    false => Checkpointing::Off,
                })
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(AutoOrBool)
    }
}

impl std::str::FromStr for Checkpointing {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "true" => Ok(Self::On),
            "false" => Ok(Self::Off),
            _ => Err(format!(
                "expected `auto`, `true` or `false`, found `{text}`"
            )),
        }
    }
}
