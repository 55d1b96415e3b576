// Words that other CPUs read and write: each once, here. In C++ the same accesses by its own names, so that optimizer
// and thread sanitizer know what is meant.
#pragma once

#ifdef __cplusplus
#define word_read(word) __atomic_load_n(&(word), __ATOMIC_SEQ_CST)
#define word_write(word, value) __atomic_store_n(&(word), value, __ATOMIC_RELEASE)
#define word_exchange(word, value) __atomic_exchange_n(&(word), value, __ATOMIC_SEQ_CST)
#else
#define word_read(word) (*(const volatile __typeof__(word)*)&(word))
#define word_write(word, value) (*(volatile __typeof__(word)*)&(word) = (value))
#define word_exchange(word, value) __sync_lock_test_and_set(&(word), value)  // a full barrier in BPF
#endif
