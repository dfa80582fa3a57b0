//! Each fault is named, and the device goes on after it.

use super::*;

/// Launches `entry` of `faults.cu` with three blocks of `block` threads; the message of what went wrong. A
/// launch after it works.
fn fault_on(device: &Emulated, entry: &'static str, block: u32) -> String {
    let n = 300;
    let x = upload(device, &vec![0f32; n]);
    let y = upload(device, &vec![0f32; n]);
    let run = |entry, launch| {
        let kernel = Kernel {
            module: "faults",
            entry,
        };
        device.launch(kernel, launch, &arguments(&[x, y], &[n as i32]))
    };
    let launch = Launch {
        grid: [3, 1, 1],
        block,
        shared: 32,
        work: 0,
    };
    let error = run(entry, launch).expect_err(entry);
    assert!(matches!(error, Error::Fault { .. }), "{error}");
    device
        .upload(x, bytemuck::cast_slice(&vec![7f32; n]))
        .expect("upload");
    run("well", grid([3, 1, 1], 128)).expect("the device goes on");
    assert_eq!(download::<f32>(device, y, n), vec![7.0; n]);
    device.free(x, n * 4);
    device.free(y, n * 4);
    device.synchronise().expect("nothing is left of the fault");
    error.to_string()
}

fn assert_fault(entry: &'static str, block: u32, parts: &[&str]) {
    let message = fault_on(&device(0, 1), entry, block);
    let kernel = format!("kernel {entry}: block (0, 0, 0)");
    for part in parts.iter().copied().chain([kernel.as_str()]) {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

#[test]
fn divergent_collectives_are_named() {
    let parts = [
        "warp 1, thread 32: divergent collective: a shuffle at faults.cu:",
        "in __syncthreads at faults.cu:",
    ];
    assert_fault("half_a_warp_shuffles", 128, &parts);
    let parts = [
        "warp 1, thread 32: divergent collective: a shuffle at faults.cu:",
        "while thread 40 has exited",
    ];
    assert_fault("shuffles_with_exited", 128, &parts);
    let parts = [
        "divergent collective: a vote at faults.cu:",
        "is in a shuffle at faults.cu:",
    ];
    assert_fault("two_collectives", 128, &parts);
    let parts = [
        "a shuffle at faults.cu:",
        "with a mask 0000ffff that lacks the calling lane",
    ];
    assert_fault("mask_without_caller", 128, &parts);
    assert_fault(
        "mma_in_half_a_warp",
        16,
        &["mma m16n8k16 at faults.cu:", "in a warp of 16 threads"],
    );
}

#[test]
fn halves_of_a_warp_may_shuffle_apart() {
    let device = device(0, 1);
    let x = upload(&device, &(0..64).map(|i| i as f32).collect::<Vec<_>>());
    let y = device.allocate(256).unwrap();
    let kernel = Kernel {
        module: "faults",
        entry: "half_masks",
    };
    device
        .launch(kernel, grid([1, 1, 1], 64), &arguments(&[x, y], &[64]))
        .unwrap();
    let want: Vec<_> = (0..64)
        .map(|i| (i ^ if i % 32 < 16 { 1 } else { 2 }) as f32)
        .collect();
    assert_eq!(download::<f32>(&device, y, 64), want);
}

#[test]
fn barriers_that_not_all_reach_are_named() {
    let parts = [
        "warp 2, thread 70: this thread has exited",
        "in __syncthreads at faults.cu:",
    ];
    assert_fault("barrier_with_exited", 128, &parts);
    let parts = [
        "warp 2, thread 64: deadlock: __syncthreads at faults.cu:",
        "while thread 0 is in __syncthreads",
    ];
    assert_fault("two_barriers", 128, &parts);
}

#[test]
fn a_deadlock_is_named() {
    assert_fault("spins", 32, &["deadlock: threads spin"]);
}

#[test]
fn a_trap_names_its_thread() {
    assert_fault("traps", 128, &["warp 1, thread 33: trap"]);
}

#[test]
fn writes_out_of_bounds_are_named() {
    for (entry, byte) in [("writes_behind", 1200), ("writes_before", -12)] {
        let what = format!("out-of-bounds write at byte {byte} of a buffer of 1200 bytes");
        let message = fault_on(&device(0, 2), entry, 128);
        assert!(
            message.starts_with(&format!("kernel {entry}: {what}")),
            "{message}"
        );
        let message = fault_on(&watching(), entry, 128);
        let place = "block (2, 0, 0), warp 2, thread 65: ";
        assert!(
            message.contains(place) && message.contains(&what),
            "{message}"
        );
    }
}

#[test]
fn writes_behind_shared_memory_are_named() {
    let parts = ["wrote outside its 32 bytes of dynamic shared memory"];
    assert_fault("writes_shared_behind", 128, &parts);
}

#[test]
fn matrices_and_copies_at_wrong_addresses_are_named() {
    assert_fault(
        "ldmatrix_from_global",
        32,
        // All 32 are; the first to come is named.
        &[
            ", thread ",
            ": ldmatrix at faults.cu:",
            "outside shared memory",
        ],
    );
    assert_fault(
        "ldmatrix_unaligned",
        32,
        &["thread 9: ldmatrix at faults.cu:", "no multiple of 16"],
    );
    assert_fault(
        "copies_unaligned",
        32,
        &["thread 7: cp_async_16 at faults.cu:", "no multiple of 16"],
    );
    assert_fault(
        "copies_to_global",
        32,
        &["cp_async_16 at faults.cu:", "outside shared memory"],
    );
}

#[test]
fn launches_that_no_gpu_takes_are_refused() {
    let device = device(0, 1);
    let launch = |kernel, launch, arguments: &[u8]| {
        let refused = device
            .launch(kernel, launch, arguments)
            .expect_err("refused");
        assert!(matches!(refused, Error::Device { .. }), "{refused}");
        refused.to_string()
    };
    let well = Kernel {
        module: "faults",
        entry: "well",
    };
    let right = arguments(&[0, 0], &[0]);
    for (refused, part) in [
        (
            launch(well, grid([1, 65_536, 1], 32), &right),
            "a grid of 1 × 65536 × 1",
        ),
        (
            launch(well, grid([0, 1, 1], 32), &right),
            "a grid of 0 × 1 × 1",
        ),
        (
            launch(well, grid([1, 1, 1], 1025), &right),
            "1025 threads a block, declared for 1024",
        ),
        (
            launch(well, grid([1, 1, 1], 32), &right[..16]),
            "arguments of 16 bytes for a struct of 24",
        ),
        (
            launch(
                Kernel {
                    entry: "ill",
                    ..well
                },
                grid([1, 1, 1], 32),
                &right,
            ),
            "faults.cu has no kernel ill",
        ),
        (
            launch(
                Kernel {
                    module: "ill",
                    ..well
                },
                grid([1, 1, 1], 32),
                &right,
            ),
            "there is no module ill",
        ),
    ] {
        assert!(refused.contains(part), "{refused:?} lacks {part:?}");
    }
}

#[test]
fn a_module_that_does_not_compile_says_where() {
    const BROKEN: &[Module] = &[Module {
        name: "broken",
        source: "#include \"common.cuh\"\nint f() { return undeclared; }\n",
    }];
    let device = Emulated::new(BROKEN, 0, false, 1).unwrap();
    let kernel = Kernel {
        module: "broken",
        entry: "f",
    };
    let error = device
        .launch(kernel, grid([1, 1, 1], 1), &[])
        .expect_err("refused")
        .to_string();
    assert!(error.contains("broken.cu:2:"), "{error}");
}
