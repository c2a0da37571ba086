// A stand-in for NVIDIA's library with two devices: the second tells its name and nothing else.
#include <string.h>

typedef struct { unsigned int version; unsigned long long total, reserved, free, used; } memory_v2;
typedef struct { unsigned int gpu, memory; } utilization;
enum { SUCCESS = 0, NOT_SUPPORTED = 3 };
static int devices[2];
#define IS_FIRST(device) ((device) == (void *)&devices[0])

int nvmlInit_v2(void) { return SUCCESS; }
int nvmlInitWithFlags(unsigned int flags) { return (void)flags, SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return code ? "not supported" : "success"; }
int nvmlDeviceGetCount_v2(unsigned int *count) { return *count = 2, SUCCESS; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) { return *device = &devices[index], SUCCESS; }
int nvmlDeviceGetName(void *device, char *name, unsigned int length) {
  strncpy(name, IS_FIRST(device) ? "First GPU" : "Second GPU", length);
  return SUCCESS;
}
int nvmlDeviceGetMemoryInfo_v2(void *device, memory_v2 *memory) {
  if (!IS_FIRST(device)) return NOT_SUPPORTED;
  memory->total = 1000, memory->reserved = 0, memory->used = 250, memory->free = 750;
  return SUCCESS;
}
int nvmlDeviceGetUtilizationRates(void *device, utilization *rates) {
  if (!IS_FIRST(device)) return NOT_SUPPORTED;
  rates->gpu = 42, rates->memory = 7;
  return SUCCESS;
}
int nvmlDeviceGetPowerUsage(void *device, unsigned int *milliwatts) {
  return IS_FIRST(device) ? (*milliwatts = 71500, SUCCESS) : NOT_SUPPORTED;
}
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned int *celsius) {
  (void)sensor;
  return IS_FIRST(device) ? (*celsius = 55, SUCCESS) : NOT_SUPPORTED;
}
