// A struct that kernels take, checked against the one that the launching side fills: `src/backend/gpu/arguments.rs`
// ends a module with these macros, and a module in which a field has another name, type or place, or which has one more
// or one less, does not compile.
#pragma once

// Any pointer: the launching side has a number.
struct Address {};

template <class Here, class There>
constexpr bool SAME_TYPE = false;
template <class T>
constexpr bool SAME_TYPE<T, T> = true;
template <class T>
constexpr bool SAME_TYPE<T*, Address> = true;
template <class T, int N>
constexpr bool SAME_TYPE<T* [N], Address[N]> = true;

// NVRTC has no offsetof. There, types, order and size make the offsets.
#ifdef CLIP_DISTILL_EMULATED
#define ARGUMENT_AT(Struct, field, at) offsetof(Struct, field) == at
#else
#define ARGUMENT_AT(Struct, field, at) true
#endif

#define ARGUMENT(Struct, field, type, at)                                                            \
  static_assert(SAME_TYPE<decltype(Struct::field), type>, #Struct "::" #field " is launched as " #type); \
  static_assert(ARGUMENT_AT(Struct, field, at), #Struct "::" #field " is launched at byte " #at);

// `bindings` are as many names as there are fields, `in_order` compares each one's address with that of its field.
#define ARGUMENTS(Struct, size, bindings, in_order)                                      \
  static_assert(sizeof(Struct) == size, #Struct " is launched with " #size " bytes");    \
  __device__ constexpr bool fields_in_order(const Struct& a) {                           \
    const auto& [ARGUMENTS_UNPACK bindings] = a;                                         \
    return in_order;                                                                     \
  }                                                                                      \
  static_assert(fields_in_order(Struct{}), "fields of " #Struct " in another order");
#define ARGUMENTS_UNPACK(...) __VA_ARGS__
