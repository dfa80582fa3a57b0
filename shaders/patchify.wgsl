// Images [batch, h, w, channels] into patches, each in (y, x, channel) order. A line of a patch is contiguous in both.

#kernel patchify_$T PatchifyArguments 256
#buffer images array<$T>
#buffer y array<$T>
  let line = u32(a.side) * u32(a.channels);
  for (var i = block.x * 256u + thread; i < a.n; i += grid.x * 256u) {
    let lines = i / line;
    let patches = lines / u32(a.side);
    let across = patches % u32(a.across);
    // Of all images.
    let down = patches / u32(a.across);
    y[i] = images[((down * u32(a.side) + lines % u32(a.side)) * u32(a.across) + across) * line + i % line];
  }
#end
