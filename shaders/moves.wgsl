// Copies and zeros, in words of 32 bits.

#kernel copy_words CopyArguments 256
#buffer source array<u32>
#buffer to array<u32>
  for (var i = block.x * 256u + thread; i < a.words; i += grid.x * 256u) {
    to[a.to / 4u + i] = source[a.source / 4u + i];
  }
#end

#kernel clear_words ClearArguments 256
#buffer to array<u32>
  for (var i = block.x * 256u + thread; i < a.words; i += grid.x * 256u) {
    to[a.to / 4u + i] = 0u;
  }
#end
