//! Unwritten memory shows; addresses that are none are refused.

use super::*;

fn faults(entry: &'static str) -> Kernel {
    Kernel {
        module: "faults",
        entry,
    }
}

#[test]
fn unwritten_memory_is_nan_and_absurd() {
    let device = device(0, 1);
    let x = device.allocate(64).unwrap();
    assert!(download::<f32>(&device, x, 16).iter().all(|v| v.is_nan()));
    assert!(
        download::<half::bf16>(&device, x, 32)
            .iter()
            .all(|v| v.is_nan())
    );
    assert!(
        download::<i32>(&device, x, 16)
            .iter()
            .all(|&v| v > 2_000_000_000)
    );
    let y = device.allocate(256).unwrap();
    device
        .launch(
            faults("well"),
            grid([1, 1, 1], 32),
            &arguments(&[x, y], &[16]),
        )
        .unwrap();
    assert!(download::<f32>(&device, y, 16).iter().all(|v| v.is_nan()));
}

#[test]
fn reads_behind_a_buffer_give_nan() {
    let device = device(0, 1);
    let x = upload(&device, &[0f32; 5]);
    let y = device.allocate(4).unwrap();
    device
        .launch(
            faults("reads_behind"),
            grid([1, 1, 1], 1),
            &arguments(&[x, y], &[5]),
        )
        .unwrap();
    assert!(download::<f32>(&device, y, 1)[0].is_nan());
}

#[test]
fn shared_memory_is_unwritten_in_each_block() {
    let device = device(0, 1);
    let y = upload(&device, &[0f32; 64]);
    let launch = Launch {
        grid: [3, 1, 1],
        block: 32,
        shared: 128,
        work: 0,
    };
    device
        .launch(faults("reads_shared"), launch, &arguments(&[y, y], &[0]))
        .unwrap();
    assert!(download::<f32>(&device, y, 64).iter().all(|v| v.is_nan()));
}

#[test]
fn freed_memory_is_unwritten_again_and_watched() {
    let device = device(0, 1);
    let x = upload(&device, &[1f32; 32]);
    let y = upload(&device, &[1f32; 32]);
    device.free(x, 128);
    let copy = |from, to| {
        device.launch(
            faults("well"),
            grid([1, 1, 1], 32),
            &arguments(&[from, to], &[32]),
        )
    };
    copy(x, y).unwrap();
    assert!(download::<f32>(&device, y, 32).iter().all(|v| v.is_nan()));
    device.clear(y, 128).unwrap();
    copy(y, x).unwrap();
    let error = device
        .synchronise()
        .expect_err("written after it was freed")
        .to_string();
    assert_eq!(
        error,
        "kernel well or one before it: write at byte 0 of a buffer of 128 bytes that had been freed"
    );
    device.synchronise().expect("told once");
}

#[test]
fn addresses_that_are_none_are_refused() {
    let device = device(0, 1);
    let x = device.allocate(100).unwrap();
    let mut out = [0; 8];
    for refused in [
        device.upload(x + 93, &out),
        device.clear(x, 101),
        device.copy(x, x + 1, 100),
        device.copy(x + 1, x, 100),
        device.download(x - 1, &mut out),
        device.download(x + 100, &mut out),
        device.download(0, &mut out),
    ] {
        assert!(matches!(refused, Err(Error::Device { .. })), "{refused:?}");
    }
    device.clear(x, 100).unwrap();
    device.copy(x, x + 50, 50).unwrap();
    device.free(x, 99);
    let error = device.synchronise().expect_err("freed in part").to_string();
    assert!(
        error.contains("free of 99 bytes of a buffer of 100"),
        "{error}"
    );
    device.free(x, 100);
    let error = device.synchronise().expect_err("freed twice").to_string();
    assert!(error.contains("where no buffer begins"), "{error}");
}

#[test]
fn writes_far_from_their_buffer_are_found() {
    let device = device(0, 1);
    let x = upload(&device, &[0f32; 4]);
    let y = device.allocate(16).unwrap();
    let kernel = faults("well");
    let error = device
        .launch(
            kernel,
            grid([1, 1, 1], 32),
            &arguments(&[x, y + 2000], &[4]),
        )
        .expect_err("far behind y")
        .to_string();
    let what = "out-of-bounds write at byte 2000 of a buffer of 16 bytes";
    assert!(error.contains(what), "{error}");
    device.synchronise().expect("told once");
}
