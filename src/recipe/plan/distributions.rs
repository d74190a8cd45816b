//! Steps from scoring to the targets.

use super::Run;
use crate::align::{Align, Spans};
use crate::artifact::Kind;
use crate::fuse::{Fuse, Member, Mode};
use crate::mapping::Map;
use crate::project::Project;
use crate::recipe::reuse::Reuse;
use crate::recipe::step::Step;
use crate::score::Score;
use crate::vocab::Vocabularies;

impl<'a> Run<'a> {
    /// The distributions of a model: scored, or those of another run.
    pub(super) fn score_step(&self, index: usize) -> Step<'a> {
        let model = &self.models[index];
        let name = model.name();
        let (tokens, transcripts) = (self.tokens(index), self.transcripts(index));
        let topk = self.of_model(Kind::Topk, index);
        let sequence_metrics = self.of_model(Kind::SequenceMetrics, index);
        if let Some(reused) = &model.spec.topk {
            let reuse = Reuse {
                model,
                reused,
                tokens,
                transcripts,
                topk,
                sequence_metrics,
            };
            return Step::new(name, reuse);
        }
        let score = Score {
            name: name.to_owned(),
            model: self.path(index),
            tokens,
            transcripts,
            vocab: self.vocab(index),
            topk,
            sequence_metrics,
            dtype: model.spec.dtype.into(),
            device: self.device.clone(),
            options: self.recipe.score.clone(),
        };
        Step::new(name, score)
    }

    /// A source whose vocabulary or template is not the pivot's: align, map, project.
    pub(super) fn projection_steps(&self, index: usize) -> [Step<'a>; 3] {
        let model = &self.models[index];
        let name = model.name();
        let alignment = self.of_model(Kind::Alignment, index);
        let token_map = self.of_model(Kind::TokenMap, index);
        let vocabularies = || Vocabularies::of(&model.tokenizer, &self.pivot().tokenizer);
        let native = self.templates[index] != self.templates[0];
        let warped = self.recipe.align.spans == Spans::Dtw;
        let align = Align {
            pivot_tokens: self.tokens(0),
            source_tokens: self.tokens(index),
            vocabs: warped.then(|| (self.vocab(0), self.vocab(index))),
            transcripts: native.then(|| (self.transcripts(0), self.transcripts(index))),
            out: alignment.clone(),
            options: self.recipe.align.clone(),
        };
        let map = Map {
            vocabularies: vocabularies(),
            alignment: Some(alignment.clone()),
            out: token_map.clone(),
            options: self.recipe.map.clone(),
        };
        let project = Project {
            topk: self.of_model(Kind::Topk, index),
            alignment,
            token_map,
            pivot_tokens: self.tokens(0),
            source_tokens: self.tokens(index),
            transcripts: self.transcripts(0),
            vocabularies: vocabularies(),
            pivot_topk: Some(self.of_model(Kind::Topk, 0)),
            warped,
            out: self.of_model(Kind::Projected, index),
            options: self.recipe.project.clone(),
        };
        [
            Step::new(name, align),
            Step::new(name, map),
            Step::new(name, project),
        ]
    }

    /// One set of targets for each source, or one for all.
    pub(super) fn fuse_steps(&self) -> Vec<Step<'a>> {
        let all: Vec<usize> = (1..self.models.len()).collect();
        let groups: Vec<(&str, Vec<usize>)> = match self.recipe.fuse.mode {
            Mode::Joint => vec![("joint", all)],
            Mode::Pairwise => all
                .into_iter()
                .map(|n| (self.models[n].name(), vec![n]))
                .collect(),
        };
        let step = |(name, sources): (&str, Vec<usize>)| {
            let pivot = self.recipe.fuse.use_pivot.then_some(0);
            let members = pivot.into_iter().chain(sources);
            let fuse = Fuse {
                members: members.map(|index| self.member(index)).collect(),
                out: self.dir.artifact(Kind::Targets, &[name]),
                options: self.recipe.fuse.clone(),
            };
            Step::new(name, fuse)
        };
        groups.into_iter().map(step).collect()
    }

    /// A model as a member of a fusion.
    fn member(&self, index: usize) -> Member {
        let kind = match self.reads_as_pivot(index) {
            true => Kind::Topk,
            false => Kind::Projected,
        };
        Member {
            name: self.models[index].name().to_owned(),
            distributions: self.of_model(kind, index),
            kind,
            metrics: self.of_model(Kind::SequenceMetrics, index),
        }
    }
}
