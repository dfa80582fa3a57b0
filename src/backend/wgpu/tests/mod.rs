mod device;
mod shaders;
