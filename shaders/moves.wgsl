// Copies and zeros, in words of 32 bits, and how invocations are numbered in subgroups.

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

// Each invocation's place in its subgroup, and the subgroup's size.
#kernel lanes LanesArguments 256
#buffer to array<u32>
  to[thread] = lane_of | (lanes_of << 16u);
#end
