// SPDX-License-Identifier: Apache-2.0
//
// How a test and a library that it preloads into another process speak: one page of a file that
// both have mapped, a struct of words for which a file of zeroes is a valid state.
#ifndef REHOME_TESTS_PRELOAD_PAGE_H_
#define REHOME_TESTS_PRELOAD_PAGE_H_

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>

namespace rehome {

// Null, with errno, if it cannot be had. The mapping stays for the life of the process, unless the
// caller unmaps it. Needs libc alone.
template <typename Page>
Page* MapPreloadPage(const char* path, int flags) {
  const int file = path == nullptr ? -1 : open(path, flags | O_RDWR | O_CLOEXEC, 0600);
  if (file < 0) return nullptr;
  void* address = MAP_FAILED;
  if ((flags & O_CREAT) == 0 || ftruncate(file, sizeof(Page)) == 0) {
    address = mmap(nullptr, sizeof(Page), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  }
  close(file);
  return address == MAP_FAILED ? nullptr : static_cast<Page*>(address);
}

// In the library: the page that the environment names.
template <typename Page>
Page* MapPreloadPageOf(const char* variable) {
  return MapPreloadPage<Page>(getenv(variable), 0);
}

}  // namespace rehome

#endif  // REHOME_TESTS_PRELOAD_PAGE_H_
