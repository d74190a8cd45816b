//! Trainings that are stopped, and those that stop by themselves.

use super::*;

/// Weights and log.
type Written = (Vec<u8>, BTreeMap<String, Vec<f64>>);

/// What a training with `change` writes, undisturbed and stopped after several random steps: by the
/// user (a state is saved), or killed (what was done since the last saved state is done again).
fn stopped_and_not(change: &dyn Fn(&mut Fixture), seed: u64) -> [Written; 2] {
    let mut state = seed;
    let mut below = |n: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    [false, true].map(|stopped| {
        let mut f = fixture(true);
        change(&mut f);
        while stopped && below(8) > 0 {
            let (after, killed) = (1 + below(3), below(2) == 0);
            f.inputs.options.checkpoint_every = Some(1 + below(4));
            let mut made = 0;
            let result = run_until(&f, |_| {
                made += 1;
                match made < after {
                    true => Ok(()),
                    false if killed => Err(Error::usage("killed")),
                    false => Err(Error::Interrupted),
                }
            });
            if result.is_ok() {
                break;
            }
            assert!(!f.inputs.out.exists());
        }
        if !f.inputs.out.exists() {
            run(&f).unwrap();
        }
        assert!(!f.dir.path().join("out.state").exists());
        (weights(&f.inputs.out), log(&f.inputs.steps_out))
    })
}

#[test]
fn stopped_at_random_steps_the_bytes_are_the_same() {
    let full: &dyn Fn(&mut Fixture) = &|_| {};
    let lora: &dyn Fn(&mut Fixture) = &|f| {
        f.inputs.options.method = Method::Lora;
        f.inputs.options.lora.rank = 4;
    };
    let best: &dyn Fn(&mut Fixture) = &|f| {
        // Too fast: validation gets worse again.
        f.inputs.options.lr = 3e-2;
        f.inputs.options.eval_steps = Some(3);
        f.inputs.options.load_best = true;
    };
    let early: &dyn Fn(&mut Fixture) = &|f| {
        lora(f);
        best(f);
        f.inputs.options.epochs = 6;
        f.inputs.options.load_best = false;
        f.inputs.options.early_stopping_patience = Some(2);
        f.inputs.options.dtype = Precision::Bf16;
    };
    for (name, change) in [
        ("full", full),
        ("lora", lora),
        ("best", best),
        ("early", early),
    ] {
        for seed in 0..3 {
            let [whole, stopped] = stopped_and_not(change, seed);
            assert!(whole.0 == stopped.0, "{name} {seed}: other weights");
            assert_eq!(whole.1, stopped.1, "{name} {seed}");
        }
    }
}

#[test]
fn the_best_step_is_kept_and_training_stops_when_it_is_over() {
    let mut f = fixture(true);
    f.inputs.options.lr = 3e-2;
    f.inputs.options.epochs = 8;
    f.inputs.options.eval_steps = Some(2);
    f.inputs.options.early_stopping_patience = Some(2);
    let summary = run(&f).unwrap();
    let kept = weights(&f.inputs.out);
    let log = log(&f.inputs.steps_out);
    let valid: Vec<f64> = log["valid_loss"].clone();
    let steps = valid.len();
    assert!(summary.stopped_early && steps < 40, "{valid:?}");
    let lowest = valid
        .iter()
        .copied()
        .filter(|loss| *loss >= 0.0)
        .fold(f64::INFINITY, f64::min);
    let best = valid.iter().position(|loss| *loss == lowest).unwrap() + 1;
    assert_eq!(summary.best_step, Some(best as u64), "{valid:?}");
    assert_eq!(summary.valid_loss, Some(lowest));
    // Two validations in a row after the best, and neither is better.
    let after = valid[best..].iter().filter(|loss| **loss >= 0.0).count();
    assert_eq!(after, 2, "{valid:?}");

    // The same weights as those of a training that is stopped there.
    let mut until = fixture(true);
    until.inputs.options = f.inputs.options.clone();
    until.inputs.options.early_stopping_patience = None;
    let result = run_until(&until, |step| match step == best as u64 {
        true => Err(Error::Interrupted),
        false => Ok(()),
    });
    assert!(result.is_err());
    let state = until.dir.path().join("out.state/state.safetensors");
    let state = std::fs::read(state).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&state).unwrap();
    let written = safetensors::SafeTensors::deserialize(&kept).unwrap();
    for name in written.names() {
        let master = tensors.tensor(&format!("weights/{name}")).unwrap();
        assert_eq!(
            master.data(),
            written.tensor(name).unwrap().data(),
            "{name}"
        );
    }

    for (option, change) in [
        (
            "eval_steps",
            TrainOptions {
                eval_steps: Some(1),
                ..TrainOptions::default()
            },
        ),
        (
            "load_best",
            TrainOptions {
                load_best: true,
                ..TrainOptions::default()
            },
        ),
    ] {
        let mut f = fixture(true);
        f.inputs.valid_tokens = None;
        f.inputs.options = change;
        let error = run(&f).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("`train.{option}` needs")),
            "{error}"
        );
    }
}

#[test]
fn best_weights_that_are_gone_are_an_error_before_any_work() {
    let mut f = fixture(true);
    f.inputs.options.load_best = true;
    f.inputs.options.eval_steps = Some(1);
    let stop = |f: &Fixture| {
        run_until(f, |step| match step == 2 {
            true => Err(Error::Interrupted),
            false => Ok(()),
        })
    };
    assert!(stop(&f).is_err());
    let state = f.dir.path().join("out.state");
    for entry in std::fs::read_dir(&state).unwrap() {
        let path = entry.unwrap().path();
        if path
            .file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("best-")
        {
            std::fs::remove_file(path).unwrap();
        }
    }
    let error = run(&f).unwrap_err().to_string();
    assert!(error.contains("the best step are not there"), "{error}");
}
