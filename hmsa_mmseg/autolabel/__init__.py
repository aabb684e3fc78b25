from .teacher_leakage_hook import TeacherLeakageHook

__all__ = ['TeacherLeakageHook']
