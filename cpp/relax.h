// What a thread does between two looks at something that another thread is about to change.

#ifndef MXNET_TRT_PROPERTY_RELAX_H_
#define MXNET_TRT_PROPERTY_RELAX_H_

namespace mxtrt {

inline void Relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

}  // namespace mxtrt

#endif  // MXNET_TRT_PROPERTY_RELAX_H_
