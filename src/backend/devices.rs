//! Every backend's devices.

use super::device_info::BackendDevices;
use super::{cpu, cuda, wgpu};

/// The devices of every backend, the CPU first. Libraries are opened to find them and GPUs asked for their properties;
/// nothing is compiled and nothing is kept open.
pub fn devices() -> Vec<BackendDevices> {
    vec![
        BackendDevices {
            backend: "cpu",
            devices: Ok(vec![cpu::device()]),
        },
        BackendDevices {
            backend: "cuda",
            devices: cuda::devices().map_err(|e| e.detail()),
        },
        BackendDevices {
            backend: "wgpu",
            devices: wgpu::devices().map_err(|e| e.detail()),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_always_there_and_what_is_not_says_why() {
        let all = devices();
        let names: Vec<_> = all.iter().map(|b| b.backend).collect();
        assert_eq!(names, ["cpu", "cuda", "wgpu"]);
        let cpu = &all[0].devices.as_ref().unwrap()[0];
        assert_eq!(cpu.precisions[0].support, Ok(()));
        for backend in &all {
            println!("{backend}");
            if let Err(why) = &backend.devices {
                assert!(!why.is_empty() && !why.contains('\n'), "{why}");
            }
        }
    }
}
