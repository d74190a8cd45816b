//! Projection keeps the source's likelihood of a text, for every pair of real tokenizers.

use fuselm::vocab::{SpecialTokens, Tokenizer};
use std::fs;
use std::path::Path;

use fuselm::align::{self, AlignInputs, AlignOptions};
use fuselm::artifact::distribution::{Distribution, DistributionBuilder, Distributions};
use fuselm::artifact::tokens::{SampleTokens, to_batch};
use fuselm::artifact::{Artifact, Existing, Kind, PartInfo, Provenance, Writer};
use fuselm::mapping::{self, MapInputs, MapOptions};
use fuselm::project::{self, ProjectInputs, ProjectOptions, Short};
use fuselm::text::{SampleTranscript, Transcript, transcripts_to_batch};

use super::program::shared;

/// Chat, code, digits, Chinese, emoji, and text that normalisers change.
const TEXTS: [&str; 6] = [
    "I'd love to help! What's the weather like in Reykjavík today, and should we take umbrellas?",
    "fn main() {\n    let xs: Vec<u32> = (0..10).map(|x| x * 2).collect();\n\tprintln!(\"{xs:?}\");\n}\n",
    "48 / 2 = 24 clips in May. 48 + 24 = 72; 3.14159 is not 2,718,281. #### 72",
    "他们在北京的胡同里吃了三碗面，然后坐地铁回家。東京は今日も雨です。",
    "👩‍🚀🚀 to the 🌕 and back: 5 × 🍕 = 😋, naïve café, ﬁnal ﬃ, e\u{301}clair",
    "   indented\t\ttabs  and   blanks   \n\n\nthen  lines \n",
];

/// Numbers that look random, the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Writes an artifact of one part.
fn write(dir: &Path, provenance: Provenance, rows: &arrow::record_batch::RecordBatch) {
    let samples = TEXTS.len() as u64;
    let info = PartInfo {
        samples,
        ..PartInfo::ONLY
    };
    let writer = Writer::create(dir, provenance, Existing::Replace).unwrap();
    let mut part = writer.part(info).unwrap();
    part.write(rows).unwrap();
    part.finish().unwrap();
}

fn tokens(tokenizer: &Tokenizer) -> Vec<SampleTokens> {
    let sample = |(sample_id, text): (u64, &&str)| {
        let transcript = Transcript::plain(text).unwrap();
        let row = tokenizer
            .encode_transcript(&transcript, None, SpecialTokens::Text)
            .unwrap();
        SampleTokens {
            sample_id,
            ids: row.ids,
            byte_end: row.byte_end,
            supervised: row.supervised,
        }
    };
    (0..).zip(&TEXTS).map(sample).collect()
}

/// Lists of tokens that begin as the true one does, which is in most of them.
fn distributions(
    tokenizer: &Tokenizer,
    samples: &[SampleTokens],
    random: &mut Random,
) -> arrow::record_batch::RecordBatch {
    let vocabulary = tokenizer.vocabulary();
    let mut by_byte: Vec<Vec<u32>> = vec![Vec::new(); 256];
    for (id, token) in (0..).zip(&vocabulary.tokens) {
        if let (Some(byte), false) = (token.bytes.first(), token.special) {
            by_byte[usize::from(*byte)].push(id);
        }
    }
    let mut rows = DistributionBuilder::topk();
    for sample in samples {
        for pos in sample.predicted() {
            let target = sample.ids[pos + 1];
            let first = vocabulary.bytes(target).first().copied().unwrap_or(b'a');
            let alike = &by_byte[usize::from(first)];
            let mut ids = Vec::new();
            if random.next() < 0.8 {
                ids.push(target);
            }
            for _ in 0..9 {
                let near = random.next() < 0.7 && !alike.is_empty();
                let id = match near {
                    true => alike[(random.next() * alike.len() as f64) as usize],
                    false => (random.next() * vocabulary.len() as f64) as u32,
                };
                if !ids.contains(&id) && id != target && vocabulary.token(id).is_some() {
                    ids.push(id);
                }
            }
            let mut masses: Vec<f64> = ids.iter().map(|_| -random.next().ln()).collect();
            let total = masses.iter().sum::<f64>() * (1.05 + random.next());
            masses.iter_mut().for_each(|mass| *mass /= total);
            let tail = 1.0 - masses.iter().sum::<f64>();
            let own = match ids.first() {
                Some(first) if *first == target => masses[0],
                _ => tail * random.next(),
            };
            let mut list: Vec<(u32, f64)> = ids.into_iter().zip(masses).collect();
            list.sort_by(|a, b| b.1.total_cmp(&a.1));
            let (ids, masses): (Vec<u32>, Vec<f64>) = list.into_iter().unzip();
            let logprobs: Vec<f32> = masses.iter().map(|mass| mass.ln() as f32).collect();
            let row = Distribution {
                pos: pos as u32,
                target_id: target,
                target_logprob: own.ln() as f32,
                tail_logprob: tail.ln() as f32,
                ids: &ids,
                logprobs: &logprobs,
            };
            rows.push(sample.sample_id, row);
        }
    }
    rows.finish().unwrap()
}

/// Positions, those that the readings carry, and those that the source's tokens name.
#[derive(Debug, Default)]
struct Counts {
    positions: usize,
    carried: usize,
    named: usize,
}

/// Projects by files and checks the rows as they are stored.
fn project(pivot: &Tokenizer, source: &Tokenizer, name: &str, random: &mut Random) -> Counts {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (ours, theirs) = (tokens(pivot), tokens(source));
    let of = |kind, tokenizer: &Tokenizer| {
        Provenance::new(kind).vocabulary(&tokenizer.vocabulary().digest)
    };
    write(
        &at("ours"),
        of(Kind::Tokens, pivot),
        &to_batch(&ours).unwrap(),
    );
    write(
        &at("theirs"),
        of(Kind::Tokens, source),
        &to_batch(&theirs).unwrap(),
    );
    write(
        &at("topk"),
        of(Kind::Topk, source),
        &distributions(source, &theirs, random),
    );
    write(
        &at("own"),
        of(Kind::Topk, pivot),
        &distributions(pivot, &ours, random),
    );
    let texts: Vec<SampleTranscript> = (0..)
        .zip(&TEXTS)
        .map(|(sample_id, text)| SampleTranscript {
            sample_id,
            transcript: Transcript::plain(text).unwrap(),
        })
        .collect();
    let texts = transcripts_to_batch(&texts).unwrap();
    write(&at("texts"), Provenance::new(Kind::Transcripts), &texts);
    let inputs = AlignInputs {
        pivot_tokens: &at("ours"),
        source_tokens: &at("theirs"),
        vocabularies: None,
        transcripts: None,
    };
    align::run(
        &inputs,
        &at("alignment"),
        &AlignOptions::default(),
        Existing::Refuse,
    )
    .unwrap();
    let first_token = |bytes: &[u8]| pivot.first_token(bytes);
    let inputs = MapInputs {
        source: source.vocabulary(),
        pivot: pivot.vocabulary(),
        first_token: &first_token,
        alignment: None,
    };
    mapping::run(
        &inputs,
        &at("map"),
        &MapOptions::default(),
        Existing::Refuse,
    )
    .unwrap();
    let own = at("own");
    let inputs = ProjectInputs {
        topk: &at("topk"),
        alignment: &at("alignment"),
        token_map: &at("map"),
        pivot_tokens: &at("ours"),
        source_tokens: &at("theirs"),
        transcripts: &at("texts"),
        source: source.vocabulary(),
        pivot: pivot.vocabulary(),
        first_token: &first_token,
        pivot_topk: Some(&own),
    };
    let options = ProjectOptions {
        short: Some(Short::Pivot),
        // Random lists agree with nothing for long.
        min_read: 0.0,
        min_mass: 0.0,
        ..ProjectOptions::default()
    };
    project::run(&inputs, &at("out"), &options, Existing::Refuse).unwrap();

    let mut counts = Counts::default();
    let artifact = Artifact::open(&at("out"), Kind::Projected).unwrap();
    for batch in artifact.parts()[0].batches().unwrap() {
        let batch = batch.unwrap();
        let rows = Distributions::new(&batch).unwrap();
        let (mut owed, mut sums) = (0.0, vec![(0.0, 0); TEXTS.len()]);
        for row in 0..rows.len() {
            let origin = rows.origin(row).unwrap();
            let stored = rows.row(row);
            let sample = rows.sample_id(row) as usize;
            if stored.pos == 0 {
                owed = 0.0;
            }
            counts.positions += 1;
            let Some(named) = origin.named else {
                owed = 0.0;
                continue;
            };
            counts.carried += 1;
            counts.named += usize::from(named);
            assert!(stored.ids.contains(&stored.target_id), "{name}");
            assert!(stored.ids.len() <= 11, "{name}: {}", stored.ids.len());
            let nll = origin.source_nll.unwrap();
            let kept = f64::from(-stored.target_logprob - nll - owed + origin.owed);
            assert!(
                kept.abs() < 2.5 / 1024.0,
                "{name}, sample {} position {} ({:?}): {kept}, {stored:?} {origin:?} {owed}",
                sample,
                stored.pos,
                rows.projection(row)
            );
            sums[sample].0 += kept;
            sums[sample].1 += 1;
            owed = origin.owed;
        }
        for (sample, (sum, n)) in sums.into_iter().enumerate() {
            let most = f64::from(n + 2) / 2048.0;
            assert!(
                sum.abs() <= most,
                "{name}, sample {sample}: {sum} over {n} rows"
            );
        }
    }
    counts
}

#[test]
fn every_pair_of_tokenizers_keeps_the_likelihood_of_the_source() {
    let Some(shared) = shared() else { return };
    let folders = fs::read_dir(shared.join("assets/tokenizers")).unwrap();
    let mut folders: Vec<_> = folders.map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| folder.join("tokenizer.json").is_file());
    folders.sort();
    assert!(folders.len() > 3, "{folders:?}");
    let load = |folder: &std::path::PathBuf| {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        (name, Tokenizer::load(folder).unwrap())
    };
    let tokenizers: Vec<(String, Tokenizer)> = folders.iter().map(load).collect();
    let mut random = Random(7);
    let mut all = Vec::new();
    for (to, pivot) in &tokenizers {
        for (from, source) in &tokenizers {
            if pivot.vocabulary().digest == source.vocabulary().digest {
                continue;
            }
            let name = format!("{to} from {from}");
            let counts = project(pivot, source, &name, &mut random);
            all.push((name, counts));
        }
    }
    // What random lists leave of the probability is often thin.
    for (name, counts) in &all {
        let share = |n: usize| n as f64 / counts.positions as f64;
        assert!(share(counts.carried) > 0.8, "{name}: {counts:?}");
        assert!(share(counts.named) > 0.8, "{name}: {counts:?}");
    }
}
