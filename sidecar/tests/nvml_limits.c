// A stand-in for NVIDIA's library whose limits can be set. What it is told it keeps in a file beside itself, so that a
// later life of whoever opens it finds it there: lines "KEY DEVICE VALUE" of power (mW), clock (MHz, 0: not locked), user
// (a pid), and "error 0 CODE", which the setters return.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };
enum { DEVICES = 2, USUAL = 300000, LEAST = 100000, MOST = 350000, HIGHEST = 1980, LINES = 32 };
typedef struct { unsigned int pid; unsigned long long used; unsigned int gpu, compute; } process;
static int devices[DEVICES];
static int index_of(void *device) { return (int)((int *)device - devices); }

static void path(char *into, size_t size) {
  Dl_info info;
  dladdr((void *)devices, &info);
  snprintf(into, size, "%s.state", info.dli_fname);
}
// The value of a key; `skip` of them are passed over.
static long get(const char *key, int device, long absent, int skip) {
  char name[4096], word[32];
  int at;
  long value;
  path(name, sizeof name);
  FILE *file = fopen(name, "r");
  while (file && fscanf(file, "%31s %d %ld", word, &at, &value) == 3)
    if (!strcmp(word, key) && at == device && skip-- == 0) return fclose(file), value;
  if (file) fclose(file);
  return absent;
}
static int set(const char *key, int device, long value) {
  char name[4096], word[LINES][32];
  int at[LINES], count = 0;
  long values[LINES];
  int error = (int)get("error", 0, 0, 0);
  if (error) return error;
  path(name, sizeof name);
  FILE *file = fopen(name, "r");
  while (file && count < LINES && fscanf(file, "%31s %d %ld", word[count], &at[count], &values[count]) == 3)
    if (strcmp(word[count], key) || at[count] != device) count++;
  if (file) fclose(file);
  file = fopen(name, "w");
  for (int i = 0; i < count; i++) fprintf(file, "%s %d %ld\n", word[i], at[i], values[i]);
  fprintf(file, "%s %d %ld\n", key, device, value);
  return fclose(file), SUCCESS;
}

int nvmlInit_v2(void) { return SUCCESS; }
int nvmlInitWithFlags(unsigned int flags) { return (void)flags, SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return code ? "an error" : "success"; }
int nvmlDeviceGetCount_v2(unsigned int *count) { return *count = DEVICES, SUCCESS; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) { return *device = &devices[index], SUCCESS; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
  int index = -1;
  if (sscanf(uuid, "GPU-%d", &index) != 1 || index < 0 || index >= DEVICES) return NOT_FOUND;
  return *device = &devices[index], SUCCESS;
}
int nvmlDeviceGetUUID(void *device, char *uuid, unsigned int length) {
  return snprintf(uuid, length, "GPU-%d", index_of(device)), SUCCESS;
}
int nvmlDeviceGetPowerManagementLimit(void *device, unsigned int *limit) {
  return *limit = (unsigned int)get("power", index_of(device), USUAL, 0), SUCCESS;
}
int nvmlDeviceGetPowerManagementLimitConstraints(void *device, unsigned int *least, unsigned int *most) {
  return (void)device, *least = LEAST, *most = MOST, SUCCESS;
}
int nvmlDeviceSetPowerManagementLimit(void *device, unsigned int limit) {
  if (limit < LEAST || limit > MOST) return INVALID_ARGUMENT;
  return set("power", index_of(device), limit);
}
int nvmlDeviceGetMaxClockInfo(void *device, int type, unsigned int *clock) {
  return (void)device, (void)type, *clock = HIGHEST, SUCCESS;
}
int nvmlDeviceGetClockInfo(void *device, int type, unsigned int *clock) {
  long locked = get("clock", index_of(device), 0, 0);
  return (void)type, *clock = (unsigned int)(locked ? locked : HIGHEST), SUCCESS;
}
int nvmlDeviceSetGpuLockedClocks(void *device, unsigned int least, unsigned int most) {
  return least > most ? INVALID_ARGUMENT : set("clock", index_of(device), most);
}
int nvmlDeviceResetGpuLockedClocks(void *device) { return set("clock", index_of(device), 0); }
static int processes(void *device, unsigned int *count, process *into) {
  unsigned int found = 0, room = *count;
  for (long pid; (pid = get("user", index_of(device), 0, (int)found)) > 0; found++)
    if (into && found < room) memset(&into[found], 0, sizeof *into), into[found].pid = (unsigned int)pid;
  *count = found;
  return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *d, unsigned int *count, process *p) { return processes(d, count, p); }
int nvmlDeviceGetGraphicsRunningProcesses_v3(void *d, unsigned int *count, process *p) {
  return (void)d, (void)p, *count = 0, SUCCESS;
}
