// The cosines of a pair of relations: the student's features, and with a teacher the teacher's.
#include cosines

const STUDENT = 0u;
const TEACHER = 1u;

fn x_at(which: u32, i: u32) -> f32 {
#if X == teacher_f32
  if (which == TEACHER) { return teacher_x[i]; }
#end
  return student_x[i];
}

fn y_at(which: u32, i: u32) -> f32 {
#if X == teacher_f32
  if (which == TEACHER) { return teacher_y[i]; }
#end
  return student_y[i];
}

fn width_of(which: u32) -> u32 { return select(u32(a.student_width), u32(a.teacher_width), which == TEACHER); }
