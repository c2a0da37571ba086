// A stand-in for NVIDIA's library: a fake, for tests alone. Two devices, of which the second tells its name and nothing
// else; or whatever the file says that PITWALL_NVML_STAND_IN names, read anew at each call, one line for each word:
//   devices 3          how many                    gone 9             every call that lists devices fails with this code
//   1.gpu 42           percent                     1.error 15         every call on device 1 fails with this code
//   1.used 250         1.total 1000                1.power 71500      1.power_limit 300000     1.temperature 55
//   1.graphics 1410    1.memory_clock 1593         1.reasons 4        1.mig 1
//   1.process PID BYTES     one for each process   1.sample PID TIME PERCENT
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long u64;
typedef struct { unsigned int version; u64 total, reserved, free, used; } memory_v2;
typedef struct { unsigned int gpu, memory; } utilization;
typedef struct { unsigned int pid; u64 memory; unsigned int gpu_instance, compute_instance; } process;
typedef struct { unsigned int pid; u64 time; unsigned int sm, memory, encoder, decoder; } sample;
enum { SUCCESS = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };
static int devices[16];
#define INDEX(device) ((int)((int *)(device) - devices))

static FILE *script(void) {
  const char *path = getenv("PITWALL_NVML_STAND_IN");
  return path ? fopen(path, "r") : NULL;
}
// The nth line of this word: how many numbers it has.
static int numbers(const char *word, int nth, u64 *a, u64 *b, u64 *c) {
  FILE *file = script();
  char line[256], first[64];
  int found = 0;
  while (file && fgets(line, sizeof line, file)) {
    int count = sscanf(line, "%63s %llu %llu %llu", first, a, b, c);
    if (count > 1 && !strcmp(first, word) && nth-- == 0) { found = count - 1; break; }
  }
  if (file) fclose(file);
  return found;
}
static int of_device(void *device, const char *key, int nth, u64 *a, u64 *b, u64 *c) {
  char word[64];
  snprintf(word, sizeof word, "%d.%s", INDEX(device), key);
  return numbers(word, nth, a, b, c);
}
static int is_scripted(void) {
  FILE *file = script();
  if (file) fclose(file);
  return file != NULL;
}
// Without a script the first device tells what it is given here.
static int tell(void *device, const char *key, u64 otherwise, u64 *value) {
  u64 b, c, code;
  if (of_device(device, "error", 0, &code, &b, &c)) return (int)code;
  if (is_scripted()) return of_device(device, key, 0, value, &b, &c) ? SUCCESS : NOT_SUPPORTED;
  if (INDEX(device) || !otherwise) return NOT_SUPPORTED;
  return *value = otherwise, SUCCESS;
}
static int tell_int(void *device, const char *key, u64 otherwise, unsigned int *value) {
  u64 told = 0;
  int code = tell(device, key, otherwise, &told);
  if (!code) *value = (unsigned int)told;
  return code;
}

int nvmlInit_v2(void) { u64 a, b, c; return numbers("gone", 0, &a, &b, &c) ? (int)a : SUCCESS; }
int nvmlInitWithFlags(unsigned int flags) { return (void)flags, nvmlInit_v2(); }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return code ? "not supported" : "success"; }
int nvmlDeviceGetCount_v2(unsigned int *count) {
  u64 a, b, c;
  if (numbers("gone", 0, &a, &b, &c)) return (int)a;
  return *count = numbers("devices", 0, &a, &b, &c) ? (unsigned int)a : 2, SUCCESS;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) { return *device = &devices[index], SUCCESS; }
int nvmlDeviceGetName(void *device, char *name, unsigned int length) {
  const char *names[] = {"First GPU", "Second GPU", "Third GPU"};
  strncpy(name, names[INDEX(device) % 3], length);
  return SUCCESS;
}
int nvmlDeviceGetUUID(void *device, char *uuid, unsigned int length) {
  if (!is_scripted()) return NOT_SUPPORTED;
  snprintf(uuid, length, "GPU-fake-%d", INDEX(device));
  return SUCCESS;
}
int nvmlDeviceGetMemoryInfo_v2(void *device, memory_v2 *memory) {
  u64 used = 0, total = 0;
  int code = tell(device, "used", 250, &used);
  if (code || (code = tell(device, "total", 1000, &total))) return code;
  memory->total = total, memory->reserved = 0, memory->used = used, memory->free = total - used;
  return SUCCESS;
}
int nvmlDeviceGetUtilizationRates(void *device, utilization *rates) {
  return rates->memory = 7, tell_int(device, "gpu", 42, &rates->gpu);
}
int nvmlDeviceGetPowerUsage(void *device, unsigned int *value) { return tell_int(device, "power", 71500, value); }
int nvmlDeviceGetEnforcedPowerLimit(void *device, unsigned int *value) { return tell_int(device, "power_limit", 0, value); }
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned int *value) {
  return (void)sensor, tell_int(device, "temperature", 55, value);
}
int nvmlDeviceGetClockInfo(void *device, int clock, unsigned int *value) {
  return tell_int(device, clock == 0 ? "graphics" : "memory_clock", 0, value);
}
int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, u64 *value) { return tell(device, "reasons", 0, value); }
int nvmlDeviceGetMigMode(void *device, unsigned int *current, unsigned int *pending) {
  return *pending = 0, tell_int(device, "mig", 0, current);
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned int *room, process *into) {
  u64 pid, bytes, c;
  unsigned int count = 0;
  for (; of_device(device, "process", (int)count, &pid, &bytes, &c) == 2; count++)
    if (count < *room) into[count] = (process){(unsigned int)pid, bytes, ~0u, ~0u};
  int fits = count <= *room;
  return *room = count, fits ? SUCCESS : INSUFFICIENT_SIZE;
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(void *device, unsigned int *room, process *into) {
  return (void)device, (void)into, *room = 0, SUCCESS;
}
int nvmlDeviceGetProcessUtilization(void *device, sample *into, unsigned int *room, u64 since) {
  u64 pid, time, percent;
  unsigned int count = 0;
  for (int nth = 0; of_device(device, "sample", nth, &pid, &time, &percent) == 3; nth++)
    if (time > since) {
      if (into && count < *room) into[count] = (sample){(unsigned int)pid, time, (unsigned int)percent, 0, 0, 0};
      count++;
    }
  if (!count) return NOT_FOUND;
  int fits = into && count <= *room;
  return *room = count, fits ? SUCCESS : INSUFFICIENT_SIZE;
}
